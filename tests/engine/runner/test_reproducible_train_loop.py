import pytest
from mmengine.evaluator import BaseMetric, Evaluator
from support.tiny_training import HOOKS, NumberedImages, PredictsNothing, few_weights_runner, write_rectangles


class Stop(Exception):
    """Ends a run in its validation."""


class Iterations(BaseMetric):
    """Notes where validations happen."""

    def __init__(self, validated: list, fails: bool = False) -> None:
        super().__init__()
        self.validated = validated
        self.fails = fails

    def process(self, data_batch, data_samples) -> None:
        if self.fails:
            raise Stop
        self.results.append(0)

    def compute_metrics(self, results) -> dict:
        self.validated.append(len(self.validated))
        return dict(score=1.0)


def train(work_dir, by_epoch, validated, fails=False, resume=None, **loop) -> None:
    hooks = dict(HOOKS, checkpoint=dict(HOOKS['checkpoint'], by_epoch=by_epoch, interval=1 if by_epoch else 6))
    few_weights_runner(
        work_dir,
        12,
        PredictsNothing(),
        by_epoch=by_epoch,
        train_cfg=dict(type='ReproducibleEpochBasedTrainLoop', max_epochs=2, **loop)
        if by_epoch
        else dict(type='ReproducibleIterBasedTrainLoop', max_iters=12, val_interval=6, **loop),
        val_dataloader=dict(dataset=NumberedImages(), sampler=dict(type='DefaultSampler', shuffle=False), batch_size=2),
        val_cfg=dict(type='ValLoop'),
        val_evaluator=Evaluator([Iterations(validated, fails)]),
        default_hooks=hooks,
        load_from=resume and str(resume),
        resume=resume is not None,
    ).train()


@pytest.mark.parametrize('by_epoch', [False, True], ids=['iterations', 'epochs'])
def test_a_validation_that_a_stop_prevented_comes_first(by_epoch, tmp_path):
    with pytest.raises(Stop):
        train(tmp_path, by_epoch, [], fails=True)
    validated = []
    name = 'epoch_{}.pth' if by_epoch else 'iter_{}.pth'
    train(tmp_path, by_epoch, validated, resume=tmp_path / name.format(1 if by_epoch else 6))
    assert len(validated) == 2, 'the one that was due, and the last'

    # Also when nothing is left to be trained.
    validated = []
    train(tmp_path, by_epoch, validated, resume=tmp_path / name.format(2 if by_epoch else 12))
    assert len(validated) == 1


@pytest.mark.parametrize('by_epoch', [False, True], ids=['iterations', 'epochs'])
def test_a_resumed_run_does_not_validate_first_before_val_begin(by_epoch, tmp_path):
    begin = dict(val_begin=2 if by_epoch else 12)
    train(tmp_path, by_epoch, [], **begin)
    validated = []
    train(tmp_path, by_epoch, validated, resume=tmp_path / ('epoch_1.pth' if by_epoch else 'iter_6.pth'), **begin)
    assert len(validated) == 1, 'the last one only'


@pytest.mark.parametrize('name', ['CachedMosaic', 'CachedMixUp'])
def test_a_transform_that_no_resumed_run_can_repeat_is_named(name, tmp_path, capsys):
    write_rectangles(tmp_path / 'data')
    dataset = dict(
        type='CocoDataset',
        data_root=str(tmp_path / 'data'),
        ann_file='annotations.json',
        data_prefix=dict(img='images'),
        pipeline=[dict(type=name, img_scale=(64, 64))],
    )
    loader = dict(dataset=dataset, sampler=dict(type='InfiniteSampler'), batch_size=2, num_workers=0)
    few_weights_runner(tmp_path, 6, PredictsNothing(), train_dataloader=loader).train_loop  # noqa: B018
    assert f'{name} mix images that a worker has loaded before' in capsys.readouterr().out
