from pathlib import Path

import pytest
import torch
from support.distributed_step import EMPTY, FULL, gradients
from support.tool import run_tool

TESTS = Path(__file__).parents[1]


@pytest.fixture(scope='module')
def two_processes(tmp_path_factory) -> dict:
    """Gradients of the cases of ``distributed_step.py`` on two processes."""
    path = tmp_path_factory.mktemp('gradients') / 'gradients.pth'
    job = run_tool(TESTS / 'support/distributed_step.py', path, processes=2)
    assert job.returncode == 0, job.stderr
    return torch.load(path)


def assert_same_gradients(expected: dict, actual: dict) -> None:
    largest = max(gradient.abs().max() for gradient in expected.values())
    assert largest > 0.01
    for name, gradient in expected.items():
        torch.testing.assert_close(actual[name], gradient, rtol=1e-5, atol=1e-5 * max(1, largest), msg=name)


def test_two_processes_have_the_gradients_of_one_with_the_joined_batch(two_processes):
    assert_same_gradients(gradients(FULL, 'loss'), two_processes['all_losses'])


def test_normalisers_are_averaged_over_processes_also_if_one_has_no_objects(two_processes):
    # loss_cls and loss_centerness: N+ and the number of centers come from one process alone.
    assert_same_gradients(gradients(EMPTY, 'loss_c'), two_processes['box_losses_with_an_empty_rank'])


def test_a_process_without_objects_takes_part_in_the_step(two_processes):
    step = two_processes['all_losses_with_an_empty_rank']
    assert any('mask_head' in name for name in step)
    assert all(gradient.isfinite().all() for gradient in step.values())
