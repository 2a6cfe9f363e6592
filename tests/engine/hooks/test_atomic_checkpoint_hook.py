import inspect
import multiprocessing
import os
import random
import resource
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.hooks import EMAHook, Hook
from mmengine.registry import PARAM_SCHEDULERS
from mmengine.runner import Runner
from support.small_disk import mount_small_disk
from support.tiny_training import HOOKS, FewWeights, NumberedImages, PredictsNothing, few_weights_runner

from mmdet_sag.engine.checkpoint_files import newest_checkpoint
from mmdet_sag.engine.hooks import AtomicCheckpointHook, atomic_checkpoint_hook
from mmdet_sag.errors import InputError


class Rising(BaseMetric):
    """Each validation is better than the one before."""

    score = 0

    def process(self, data_batch, data_samples) -> None:
        self.results.append(0)

    def compute_metrics(self, results) -> dict:
        self.score += 1
        return dict(score=self.score)


EVERY_ITERATION = {**HOOKS, 'checkpoint': {**HOOKS['checkpoint'], 'interval': 1}}


def train(
    work_dir: Path, max_iters: int, num_padding: int = 250_000, checkpoint: str | None = None, **options
) -> Runner:
    checkpoint = checkpoint or newest_checkpoint(str(work_dir))
    arguments = {'default_hooks': EVERY_ITERATION, 'log_level': 'ERROR', **options}
    torch.manual_seed(0)
    runner = few_weights_runner(
        work_dir, max_iters, FewWeights(num_padding), load_from=checkpoint, resume=checkpoint is not None, **arguments
    )
    runner.train()
    return runner


def done(work_dir: Path) -> int:
    checkpoint = newest_checkpoint(str(work_dir))
    return torch.load(checkpoint)['meta']['iter'] if checkpoint else 0


def files(work_dir: Path) -> list[str]:
    return sorted(path.name for path in work_dir.iterdir() if path.is_file())


def test_only_the_newest_checkpoints_stay(tmp_path):
    train(tmp_path, 5)
    assert sorted(path.name for path in tmp_path.glob('*.pth')) == ['iter_4.pth', 'iter_5.pth']
    assert (tmp_path / 'last_checkpoint').read_text() == str(tmp_path / 'iter_5.pth')
    # A resumed run removes the files of the run before it.
    train(tmp_path, 7)
    assert sorted(path.name for path in tmp_path.glob('*.pth')) == ['iter_6.pth', 'iter_7.pth']


def test_sigkill_at_ten_random_moments_leaves_a_checkpoint_to_go_on_from(tmp_path):
    # A forked process starts at once; its training does nothing but steps of a millisecond and checkpoints. Other tests
    # may have left threads in this process, with which PyTorch refuses to be forked, but not in a server.
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['mmdet.registry', 'mmdet_sag.engine'])
    generator = random.Random(0)
    before = 0
    for _ in range(10):
        process = context.Process(target=train_forked, args=(tmp_path,))
        process.start()
        started = time.monotonic()
        while done_quickly(tmp_path) <= before and time.monotonic() - started < 60:
            time.sleep(0.01)
        time.sleep(generator.uniform(0, 0.1))
        newest = done_quickly(tmp_path)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        for path in tmp_path.glob('*.pth'):
            torch.load(path)
        assert done(tmp_path) >= newest > before
        before = done(tmp_path)


def train_forked(work_dir: Path) -> None:
    # A fork does not inherit threads, and waits for them for ever if it is to use more than one.
    torch.set_num_threads(1)
    train(work_dir, 1_000_000)


def done_quickly(work_dir: Path) -> int:
    """Iteration of the newest file, by its name."""
    return max((int(path.stem.split('_')[1]) for path in work_dir.glob('iter_*.pth')), default=0)


def test_a_damaged_newest_checkpoint_is_passed_over(tmp_path):
    train(tmp_path, 3)
    newest = tmp_path / 'iter_3.pth'
    newest.write_bytes(newest.read_bytes()[:1000])
    assert newest_checkpoint(str(tmp_path)) == str(tmp_path / 'iter_2.pth')


@pytest.mark.parametrize('averaged', [False, True], ids=['weights', 'averaged weights'])
def test_the_best_checkpoint_is_finite_too(tmp_path, averaged):
    hooks = {**HOOKS, 'checkpoint': {**HOOKS['checkpoint'], 'save_best': 'AP', 'rule': 'greater'}}
    runner = few_weights_runner(
        tmp_path, 3, FewWeights(), default_hooks=hooks, custom_hooks=[dict(type='EMAHook')], log_level='ERROR'
    )
    runner.train()
    hook = AtomicCheckpointHook.of(runner)
    hook.after_val_epoch(runner, dict(AP=0.5))
    before = files(tmp_path)
    assert [name for name in before if name.endswith('.pth')] == ['best_AP_iter_3.pth', 'iter_2.pth', 'iter_3.pth']

    (ema,) = (hook for hook in runner.hooks if isinstance(hook, EMAHook))
    broken = ema.ema_model.module if averaged else runner.model
    torch.nn.init.constant_(broken.layers[0].weight, float('nan'))
    with pytest.raises(InputError, match=r'weights are not finite .*layers.0.weight, 1 in all'):
        hook.after_val_epoch(runner, dict(AP=0.6))
    assert files(tmp_path) == before
    assert torch.load(tmp_path / 'best_AP_iter_3.pth')['state_dict']['layers.0.weight'].isfinite().all()


def test_a_constant_of_a_layer_may_be_infinite(tmp_path):
    model = FewWeights()
    model.register_buffer('mask', torch.full((2, 2), -torch.inf))
    few_weights_runner(tmp_path, 3, model, custom_hooks=[dict(type='EMAHook')], log_level='ERROR').train()
    assert torch.load(tmp_path / 'iter_3.pth')['state_dict']['mask'].isinf().all()


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 5 MB."""
    with mount_small_disk(tmp_path / 'disk', '5m') as folder:
        yield folder


def test_a_full_disk_leaves_the_older_checkpoints(small_disk):
    # Each checkpoint has 2 MB: two fit, and the third is to come before the first goes.
    with pytest.raises(InputError, match='make room and train again with --resume'):
        train(small_disk, 4)
    assert [name for name in files(small_disk) if name.endswith('.pth')] == ['iter_1.pth', 'iter_2.pth']
    assert [path.name for path in small_disk.glob('.*')] == ['.run']
    assert (small_disk / 'last_checkpoint').read_text() == str(small_disk / 'iter_2.pth')
    assert done(small_disk) == 2


def test_a_limit_on_the_size_of_files_acts_like_a_full_disk(tmp_path):
    train(tmp_path, 2)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
    try:
        with pytest.raises(InputError, match='could not be written'):
            train(tmp_path, 4)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert done(tmp_path) == 2
    train(tmp_path, 4)
    assert done(tmp_path) == 4


class Measure(Hook):
    """Hands schedules that follow a metric one that does not improve."""

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        for scheduler in runner.param_schedulers:
            if getattr(scheduler, 'need_val_args', False):
                scheduler.step(dict(loss=1.0))


# Arguments that have no default.
SCHEDULES = dict(
    milestones=[2, 4],
    step_size=2,
    gamma=0.5,
    T_max=6,
    periods=[3, 3],
    restart_weights=[1, 0.5],
    eta_min=1e-5,
    eta_max=1e-2,
    total_steps=6,
    patience=1,
    end=6,
)


def schedule(name: str) -> dict:
    cls = PARAM_SCHEDULERS.get(name)
    parameters = {
        key for base in cls.__mro__ if '__init__' in vars(base) for key in inspect.signature(base.__init__).parameters
    }
    arguments = {key: value for key, value in SCHEDULES.items() if key in parameters}
    if 'Plateau' not in name:
        arguments['by_epoch'] = False
    if 'ParamScheduler' in name:
        arguments['param_name'] = 'lr'
    return dict(type=f'mmengine.{name}', **arguments)


@pytest.mark.parametrize('name', sorted(PARAM_SCHEDULERS.module_dict))
def test_every_schedule_of_mmengine_is_resumed(tmp_path, name):
    optimizer = dict(type='AdamW' if 'Momentum' in name else 'SGD', lr=1e-3)
    options = dict(
        num_padding=0,
        param_scheduler=[schedule(name)],
        custom_hooks=[Measure()],
        optim_wrapper=dict(optimizer=optimizer, paramwise_cfg=dict(bias_lr_mult=2.0)),
    )
    once = train(tmp_path / 'once', 6, **options)
    train(tmp_path / 'twice', 3, **options)
    twice = train(tmp_path / 'twice', 6, **options)
    for one, two in zip(once.optim_wrapper.param_groups, twice.optim_wrapper.param_groups, strict=True):
        assert {**one, 'params': 0} == {**two, 'params': 0}
    for one, two in zip(once.param_schedulers, twice.param_schedulers, strict=True):
        assert {**one.state_dict(), 'anneal_func': 0} == {**two.state_dict(), 'anneal_func': 0}
    for one, two in zip(once.model.parameters(), twice.model.parameters(), strict=True):
        assert torch.equal(one, two)


class Unreadable(Hook):
    """Leaves something in the checkpoint that safe loading refuses."""

    def before_train(self, runner) -> None:
        runner.message_hub.update_info('folder', Path('here'))


def test_a_checkpoint_that_resume_could_not_read_is_known_at_once(tmp_path):
    with pytest.raises(
        InputError, match='the first checkpoint was written, but --resume could not read it .*iter_1.pth'
    ):
        train(tmp_path, 6, custom_hooks=[Unreadable()])


HALVED = dict(type='MultiStepLR', by_epoch=False, milestones=[4], gamma=0.5, end=100)


def rates(lr: float) -> dict:
    optimizer = dict(type='SGD', lr=lr, momentum=0.9)
    return dict(optim_wrapper=dict(optimizer=optimizer, paramwise_cfg=dict(bias_lr_mult=2.0)), param_scheduler=[HALVED])


def test_a_changed_learning_rate_is_applied_and_said(tmp_path, capsys):
    train(tmp_path, 3, **rates(0.1))
    assert 'learning rate changes' not in capsys.readouterr().out
    runner = train(tmp_path, 6, **{**rates(0.02), 'log_level': 'WARNING'})
    assert 'The learning rate changes from 0.1 to 0.02' in ' '.join(capsys.readouterr().out.split())
    assert sorted({round(group['lr'], 9) for group in runner.optim_wrapper.param_groups}) == [0.01, 0.02]
    # The next resume finds nothing changed.
    train(tmp_path, 7, **{**rates(0.02), 'log_level': 'WARNING'})
    assert 'learning rate changes' not in capsys.readouterr().out


def test_other_changes_of_optimizer_and_schedule_are_said(tmp_path, capsys):
    train(tmp_path, 3, **rates(0.1))
    options = rates(0.1)
    options['optim_wrapper']['optimizer']['momentum'] = 0.8
    options['param_scheduler'] = [{**HALVED, 'gamma': 0.1}, dict(type='ConstantLR')]
    train(tmp_path, 4, **{**options, 'log_level': 'WARNING'})
    text = ' '.join(capsys.readouterr().out.split())
    assert 'optimizer.momentum is 0.8, 0.9 in the checkpoint' in text
    assert 'param_scheduler[0].gamma is 0.1, 0.5 in the checkpoint' in text
    assert 'param_scheduler: 2 schedules, 1 in the checkpoint' in text
    del options['optim_wrapper']['paramwise_cfg']
    with pytest.raises(InputError, match='iter_4.pth was trained with other groups of parameters'):
        train(tmp_path, 5, **options)


BEST = {**EVERY_ITERATION, 'checkpoint': {**EVERY_ITERATION['checkpoint'], 'save_best': 'AP', 'rule': 'greater'}}


def craft(path: Path, **info: object) -> str:
    checkpoint = torch.load(path)
    checkpoint['message_hub']['runtime_info'].update(info)
    checkpoint['message_hub']['resumed_keys'].update(dict.fromkeys(info, True))
    torch.save(checkpoint, path)
    return str(path)


@pytest.mark.parametrize('by_epoch', [False, True])
def test_a_checkpoint_names_nothing_outside_of_its_folder_for_removal(tmp_path, by_epoch):
    work_dir = tmp_path / 'work'
    train(work_dir, 2)
    (tmp_path / 'thesis').mkdir()
    names = ['thesis/text', 'other.pth', 'best_AP_iter_1.pth', 'iter_1.pth']
    for name in names:
        (tmp_path / name).write_text(name)
    (work_dir / 'notes').write_text('mine')
    crafted = craft(
        work_dir / 'iter_2.pth',
        best_ckpt=str(tmp_path / 'best_AP_iter_1.pth'),
        best_score=0.1,
        last_ckpt=str(tmp_path / 'other.pth'),
        ckpt_within_epoch='../thesis',
        keep_ckpt_ids=['../../thesis', '1/../../iter_1', 'x', 1, 2],
    )
    hooks = {**BEST, 'checkpoint': {**BEST['checkpoint'], 'by_epoch': by_epoch}}
    runner = few_weights_runner(
        work_dir, 12, FewWeights(250_000), by_epoch, default_hooks=hooks, load_from=crafted, resume=True
    )
    runner.train()
    hook = AtomicCheckpointHook.of(runner)
    hook.after_val_epoch(runner, dict(AP=0.5))
    hook.save_now(runner, 3, 13)
    assert all((tmp_path / name).read_text() == name for name in names)
    assert (work_dir / 'notes').is_file()


def test_resuming_into_another_folder_leaves_both_runs_their_files(tmp_path):
    for name in ('a', 'b'):
        runner = few_weights_runner(tmp_path / name, 4, FewWeights(), default_hooks=BEST)
        runner.train()
        AtomicCheckpointHook.of(runner).after_val_epoch(runner, dict(AP=0.5))
    before = files(tmp_path / 'a')
    (tmp_path / 'b' / 'iter_4.pth').rename(tmp_path / 'b' / 'iter_2.pth')
    source = str(tmp_path / 'a' / 'iter_4.pth')
    runner = few_weights_runner(tmp_path / 'b', 7, FewWeights(), default_hooks=BEST, load_from=source, resume=True)
    runner.train()
    AtomicCheckpointHook.of(runner).after_val_epoch(runner, dict(AP=0.6))
    assert files(tmp_path / 'a') == before
    kept = [name for name in files(tmp_path / 'b') if name.endswith('.pth')]
    assert kept == ['best_AP_iter_4.pth', 'best_AP_iter_7.pth', 'iter_2.pth', 'iter_3.pth', 'iter_6.pth', 'iter_7.pth']


def test_what_a_kill_has_left_is_removed_when_the_run_resumes(tmp_path, monkeypatch):
    train(tmp_path, 3)

    def killed(*args):
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(AtomicCheckpointHook, '_remove_outdated', killed)
        with pytest.raises(SystemExit):
            train(tmp_path, 6)
    assert [path.name for path in sorted(tmp_path.glob('*.pth'))] == ['iter_2.pth', 'iter_3.pth', 'iter_4.pth']
    train(tmp_path, 4)
    assert [path.name for path in sorted(tmp_path.glob('*.pth'))] == ['iter_3.pth', 'iter_4.pth']


def test_the_note_of_the_last_checkpoint_is_made_up_for_when_nothing_is_left_to_train(tmp_path):
    train(tmp_path, 4)
    note = (tmp_path / 'last_checkpoint').read_text()
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'iter_3.pth'))
    train(tmp_path, 4)
    assert (tmp_path / 'last_checkpoint').read_text() == note


def test_what_a_kill_has_left_within_an_epoch_is_removed_when_the_run_resumes(tmp_path, monkeypatch):
    hooks = {**HOOKS, 'checkpoint': {**HOOKS['checkpoint'], 'by_epoch': True, 'interval': 1}}

    def runner() -> Runner:
        newest = newest_checkpoint(str(tmp_path))
        return few_weights_runner(
            tmp_path, 6, FewWeights(), True, default_hooks=hooks, load_from=newest, resume=newest is not None
        )

    first = runner()
    first.train()
    hook = AtomicCheckpointHook.of(first)
    hook.save_now(first, 1, 7)
    monkeypatch.setattr(hook, '_remove_outdated', lambda *names: None)
    hook.save_now(first, 1, 8)
    assert [path.name for path in sorted(tmp_path.glob('iter_*.pth'))] == ['iter_7.pth', 'iter_8.pth']
    runner().train()
    assert [path.name for path in sorted(tmp_path.glob('iter_*.pth'))] == ['iter_8.pth']


def test_the_checkpoint_of_another_model_is_not_resumed(tmp_path):
    train(tmp_path, 2)
    with pytest.raises(InputError, match='iter_2.pth: does not belong to this model, padding has shape'):
        train(tmp_path, 4, num_padding=3)


def train_by_epoch(work_dir: Path, resume: str | None = None) -> dict:
    """Train two epochs of six iterations with a schedule by epochs, and return the last checkpoint."""
    torch.manual_seed(0)
    few_weights_runner(
        work_dir,
        12,
        FewWeights(),
        by_epoch=True,
        default_hooks={**HOOKS, 'checkpoint': {**HOOKS['checkpoint'], 'interval': 3, 'max_keep_ckpts': -1}},
        param_scheduler=[dict(type='ExponentialLR', gamma=0.5), dict(type='CosineAnnealingMomentum', T_max=3)],
        load_from=resume,
        resume=resume is not None,
        log_level='ERROR',
    ).train()
    return torch.load(work_dir / 'iter_12.pth')


@pytest.mark.parametrize('iteration', [3, 6, 9])
def test_a_checkpoint_at_the_end_of_an_epoch_includes_the_step_of_its_schedule(tmp_path, iteration):
    straight = train_by_epoch(tmp_path)
    assert files(tmp_path)[-5:] == ['iter_12.pth', 'iter_3.pth', 'iter_6.pth', 'iter_9.pth', 'last_checkpoint']
    resumed = train_by_epoch(tmp_path, str(tmp_path / f'iter_{iteration}.pth'))
    assert straight['param_schedulers'] == resumed['param_schedulers']
    for key, value in straight['state_dict'].items():
        assert torch.equal(value, resumed['state_dict'][key]), key
    assert [scheduler['_global_step'] for scheduler in straight['param_schedulers']] == [2, 2]


def test_the_best_checkpoint_leaves_the_newest_one_at_an_update_of_the_weights(tmp_path):
    checkpoint = {**HOOKS['checkpoint'], 'interval': 4, 'save_best': 'score', 'rule': 'greater'}
    few_weights_runner(
        tmp_path,
        6,
        PredictsNothing(),
        optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=1e-3), accumulative_counts=4),
        train_cfg=dict(type='ReproducibleIterBasedTrainLoop', max_iters=8, val_interval=3),
        val_dataloader=dict(dataset=NumberedImages(), sampler=dict(type='DefaultSampler', shuffle=False), batch_size=4),
        val_cfg=dict(type='ValLoop'),
        val_evaluator=Evaluator([Rising()]),
        default_hooks={**HOOKS, 'checkpoint': checkpoint},
        log_level='ERROR',
    ).train()
    assert [name for name in files(tmp_path) if name.endswith('.pth')] == [
        'best_score_iter_8.pth',
        'iter_4.pth',
        'iter_8.pth',
    ]


def test_processes_exchange_values_through_their_store_alone(monkeypatch):
    """Gloo beside NCCL needs a network interface of its own, which a cluster may not give it."""
    numbers, rank_of_thread, num_read = iter([0, 0, 1, 1]), threading.local(), []

    class SlowlyRead(torch.distributed.HashStore):
        def get(self, key):
            if rank_of_thread.rank == 1:
                time.sleep(0.1)
                num_read.append(key)
            return super().get(key)

    store = SlowlyRead()
    monkeypatch.setattr(atomic_checkpoint_hook, 'get_world_size', lambda: 2)
    monkeypatch.setattr(atomic_checkpoint_hook, 'get_rank', lambda: rank_of_thread.rank)
    monkeypatch.setattr(atomic_checkpoint_hook, '_get_default_store', lambda: store)
    # Each of two processes counts its exchanges; here they are threads, which share a counter.
    monkeypatch.setattr(atomic_checkpoint_hook, '_exchanges', numbers)
    monkeypatch.setattr(torch.distributed, 'new_group', None)

    def run(rank, round_):
        rank_of_thread.rank = rank
        values = atomic_checkpoint_hook.exchange({'rank': rank, 'round': round_})
        # It may end now, and with it the store.
        assert rank == 1 or len(num_read) == 2 * (round_ + 1)
        return values

    with ThreadPoolExecutor(2) as threads:
        for round_ in range(2):
            for values in threads.map(run, range(2), [round_] * 2):
                assert values == [{'rank': rank, 'round': round_} for rank in range(2)]
