import pytest
import torch
from mmengine.evaluator import BaseMetric, Evaluator
from support.tiny_training import HOOKS, NumberedImages, PredictsNothing, few_weights_runner


class Scores(BaseMetric):
    """Gives a score to each validation of a training, and notes them."""

    def __init__(self, scores: dict[int, float], validated: list) -> None:
        super().__init__()
        self.scores, self.validated = scores, validated

    def process(self, data_batch, data_samples) -> None:
        self.results.append(0)

    def compute_metrics(self, results) -> dict:
        self.validated.append(self.runner.epoch)
        return dict(score=self.scores.get(self.runner.epoch, 0.1))


def train(work_dir, scores: dict, max_epochs: int = 9, resume: str = '', **options) -> list[int]:
    """Train with early stopping, and return the epochs that were validated."""
    torch.manual_seed(0)
    validated = []
    metric = Scores(scores, validated)
    checkpoint = dict(type='AtomicCheckpointHook', interval=1, save_best='score', rule='greater')
    metric.runner = few_weights_runner(
        work_dir,
        max_epochs * 6,
        PredictsNothing(),
        by_epoch=True,
        val_dataloader=dict(dataset=NumberedImages(), sampler=dict(type='DefaultSampler', shuffle=False), batch_size=4),
        val_cfg=dict(type='ValLoop'),
        val_evaluator=Evaluator([metric]),
        default_hooks={**HOOKS, 'checkpoint': checkpoint},
        custom_hooks=[dict(type='EarlyStoppingHook', monitor='score', rule='greater', min_delta=0, **options)],
        load_from=str(work_dir / resume) if resume else None,
        resume=bool(resume),
        log_level='ERROR',
    )
    metric.runner.train()
    return validated


# The best score is that of epoch 2, whose checkpoint is saved again after the validation.
@pytest.mark.parametrize('epoch', [2, 3, 4, 5])
def test_a_resumed_run_stops_where_one_stops_that_never_did(tmp_path, epoch):
    scores = {1: 0.5, 2: 0.6, 3: 0.5, 4: 0.4}
    assert train(tmp_path, scores, patience=3) == [1, 2, 3, 4, 5]
    resumed = train(tmp_path, scores, patience=3, resume=f'epoch_{epoch}.pth')
    assert resumed[-1] == 5


def test_a_run_that_reached_its_threshold_stays_stopped(tmp_path):
    assert train(tmp_path, {2: 0.9}, stopping_threshold=0.8) == [1, 2]
    assert train(tmp_path, {2: 0.9}, stopping_threshold=0.8, resume='epoch_2.pth') == []
    assert train(tmp_path, {4: 0.99}, stopping_threshold=0.95, resume='epoch_2.pth') == [3, 4]
