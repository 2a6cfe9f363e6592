import multiprocessing
import os
import random
import signal
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from support.tiny_training import FewWeights, NumberedImages, few_weights_runner

from mmdet_sag.engine.runner.seeded_data import build_seeded_dataloader, seed_generators


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


def test_all_generators_are_seeded():
    draws = []
    for _ in range(2):
        seed_generators(1, 2, 3)
        draws.append((random.random(), np.random.rand(), float(torch.rand(1))))
    assert draws[0] == draws[1]


def test_each_process_draws_random_numbers_of_its_own(tmp_path, monkeypatch):
    first = train(tmp_path / '0')
    for module in ('seeded_data', 'loops'):
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
    # The seed in the checkpoint counts, not that of the config.
    path = str(tmp_path / f'iter_{iteration}.pth')
    resumed = train(tmp_path, load_from=path, resume=True, randomness=dict(seed=2))
    assert resumed.images == straight.images[iteration:]
    assert resumed.numbers == straight.numbers[iteration:]


class LargeSamples(torch.utils.data.Dataset):
    """Samples that fill the pipe to the parent."""

    def __len__(self) -> int:
        return 100

    def __getitem__(self, index: int) -> bytes:
        return bytes(1_000_000)


def start_a_worker_and_die(connection) -> None:
    loader = torch.utils.data.DataLoader(LargeSamples(), num_workers=1, collate_fn=list)
    loader = build_seeded_dataloader(SimpleNamespace(seed=0), loader)
    loader.batch_sampler.start_at(0, seed=0, sampler_seed=None)
    batches = iter(loader)
    next(batches)
    connection.send(batches._workers[0].pid)
    os.kill(os.getpid(), signal.SIGKILL)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return open(f'/proc/{pid}/stat').read().split()[2] != 'Z'


def test_a_worker_ends_when_its_training_is_killed():
    receiver, sender = multiprocessing.Pipe(duplex=False)
    training = multiprocessing.get_context('fork').Process(target=start_a_worker_and_die, args=(sender,))
    training.start()
    sender.close()
    worker = receiver.recv()
    training.join()
    deadline = time.monotonic() + 60
    while running := is_running(worker):
        if time.monotonic() > deadline:
            os.kill(worker, signal.SIGKILL)
            break
        time.sleep(0.2)
    assert not running
