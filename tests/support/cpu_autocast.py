"""Mixed precision on the CPU, as far as the PyTorch at hand has it."""

import warnings

import pytest
import torch


def cpu_autocast(dtype: torch.dtype) -> torch.autocast:
    """Autocast to a type, or skip the test: PyTorch 2.1 and 2.2 only warn that they know bfloat16 alone."""
    with warnings.catch_warnings(record=True) as messages:
        warnings.simplefilter('always')
        context = torch.autocast('cpu', dtype=dtype)
    if any('not supported' in str(message.message) for message in messages):
        pytest.skip(f'this PyTorch has no autocast to {dtype} on the CPU')
    return context
