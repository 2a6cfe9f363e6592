import pytest
import torch
from mmengine.hooks import Hook
from support.tiny_training import HOOKS, FewWeights, NumberedImages, few_weights_runner

from mmdet_sag.engine.checkpoint_files import load_checkpoint_file


class Record(Hook):
    """Epoch, place in the epoch, and images of each iteration, and the iterations that update the weights."""

    def __init__(self) -> None:
        self.iterations = []
        self.updates = []

    def before_train(self, runner) -> None:
        runner.optim_wrapper.optimizer.register_step_post_hook(lambda *args: self.updates.append(runner.iter + 1))

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        names = [sample.img_path for sample in data_batch['data_samples']]
        self.iterations.append((runner.epoch, batch_idx, names))


def train(work_dir, batch_size=4, epochs=4, interval=1, resume=None, by_epoch=True, record=None, accumulation=1):
    record = record or Record()
    sampler = dict(type='DefaultSampler', shuffle=True)
    checkpoint = dict(HOOKS['checkpoint'], by_epoch=by_epoch, interval=interval, max_keep_ckpts=-1)
    few_weights_runner(
        work_dir,
        6 * epochs,
        FewWeights(),
        by_epoch=True,
        train_dataloader=dict(dataset=NumberedImages(), sampler=sampler, batch_size=batch_size, num_workers=0),
        default_hooks=dict(HOOKS, checkpoint=checkpoint),
        custom_hooks=[record],
        optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=1e-3), accumulative_counts=accumulation),
        load_from=resume and str(resume),
        resume=resume is not None,
    ).train()
    return record.iterations


@pytest.mark.parametrize('batch_size', [2, 12])
def test_the_saved_epoch_counts_when_the_batch_size_changes(batch_size, tmp_path):
    train(tmp_path)
    resumed = train(tmp_path / 'resumed', batch_size, resume=tmp_path / 'epoch_2.pth')
    per_epoch = 12 // batch_size
    assert [(epoch, idx) for epoch, idx, _ in resumed] == [(e, i) for e in (2, 3) for i in range(per_epoch)]
    meta = load_checkpoint_file(str(tmp_path / 'resumed' / 'epoch_4.pth'))['meta']
    assert (meta['epoch'], meta['iter']) == (4, 6 + 2 * per_epoch)

    # Resumed once more, with the batch size of the first run.
    again = train(tmp_path / 'again', 4, epochs=5, resume=tmp_path / 'resumed' / 'epoch_3.pth')
    assert [(epoch, idx) for epoch, idx, _ in again] == [(e, i) for e in (3, 4) for i in range(3)]


def test_gradients_accumulate_until_the_end_of_the_changed_epochs(tmp_path):
    train(tmp_path, epochs=2)
    # To iteration 9, whose accumulation is not complete, and to iteration 14.
    for batch_size, epochs, updates in ((12, 5, [8, 9]), (3, 4, [8, 10, 12, 14])):
        record = Record()
        resume = tmp_path / 'epoch_2.pth'
        train(tmp_path / str(epochs), batch_size, epochs, resume=resume, record=record, accumulation=2)
        assert record.updates == updates


def test_the_rest_of_an_interrupted_epoch_is_trained_with_the_new_batch_size(tmp_path):
    straight = train(tmp_path, epochs=2, by_epoch=False)
    resumed = train(tmp_path / 'resumed', 2, epochs=2, resume=tmp_path / 'iter_4.pth', by_epoch=False)
    assert [(epoch, idx) for epoch, idx, _ in resumed] == [(1, i) for i in range(2, 6)]
    expected = [name for epoch, idx, names in straight for name in names if epoch == 1 and idx >= 1]
    assert [name for _, _, names in resumed for name in names] == expected


def test_a_checkpoint_of_the_last_iteration_of_an_epoch_starts_the_next(tmp_path):
    train(tmp_path, epochs=2, by_epoch=False)
    resumed = train(tmp_path / 'resumed', epochs=2, resume=tmp_path / 'iter_3.pth', by_epoch=False)
    assert [(epoch, idx) for epoch, idx, _ in resumed] == [(1, 0), (1, 1), (1, 2)]


def test_a_checkpoint_that_does_not_tell_its_epochs_keeps_them(tmp_path):
    train(tmp_path)
    content = torch.load(tmp_path / 'epoch_2.pth')
    del content['message_hub']['runtime_info']['epochs_of_length']
    torch.save(content, tmp_path / 'older.pth')
    resumed = train(tmp_path / 'resumed', 12, resume=tmp_path / 'older.pth')
    assert [(epoch, idx) for epoch, idx, _ in resumed] == [(2, 0), (3, 0)]
