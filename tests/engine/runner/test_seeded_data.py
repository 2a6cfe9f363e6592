import pytest
import torch
from mmengine.hooks import Hook
from support.tiny_training import FewWeights, NumberedImages, few_weights_runner


class Record(Hook):
    """Images, augmented inputs and a random number of each iteration."""

    def __init__(self) -> None:
        self.images, self.inputs, self.numbers = [], [], []

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        self.images.append([sample.img_path for sample in data_batch['data_samples']])
        self.inputs += data_batch['inputs']
        self.numbers.append(float(torch.rand(1)))


def train(work_dir, max_iters=12, **options) -> Record:
    record = Record()
    # Batches of 2 from 12 images, in passes that end.
    sampler = dict(type='DefaultSampler', shuffle=True)
    loader = dict(dataset=NumberedImages(), sampler=sampler, batch_size=2, num_workers=0)
    options = dict(train_dataloader=loader, custom_hooks=[record], log_level='ERROR', **options)
    few_weights_runner(work_dir, max_iters, FewWeights(), **options).train()
    return record


def test_each_process_draws_random_numbers_of_its_own(tmp_path, monkeypatch):
    first = train(tmp_path / '0')
    for module in ('seeded_data', 'reproducible_train_loop'):
        monkeypatch.setattr(f'mmdet_sag.engine.runner.{module}.get_rank', lambda: 1)
    second = train(tmp_path / '1')
    assert first.images == second.images
    assert not any(map(torch.equal, first.inputs, second.inputs))
    assert not set(first.numbers) & set(second.numbers)


def test_each_iteration_and_each_sample_draws_random_numbers_of_its_own(tmp_path):
    record = train(tmp_path)
    assert len(set(record.numbers)) == 12
    noise = [tuple((inputs % 1).tolist()) for inputs in record.inputs]
    assert len(set(noise)) == 24


@pytest.mark.parametrize('iteration', [4, 6, 8])
def test_iterations_over_a_finite_sampler_resume_in_the_same_pass(tmp_path, iteration):
    straight = train(tmp_path)
    assert straight.images[:6] != straight.images[6:], 'each pass has another order'
    assert sorted(sum(straight.images[:6], [])) == sorted(sum(straight.images[6:], []))
    train(tmp_path, iteration)
    resumed = train(tmp_path, load_from=str(tmp_path / f'iter_{iteration}.pth'), resume=True)
    assert resumed.images == straight.images[iteration:]
    assert resumed.numbers == straight.numbers[iteration:]
