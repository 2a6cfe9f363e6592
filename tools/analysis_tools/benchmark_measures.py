"""What a measured run takes, and inputs that are the same for every model."""

import ctypes
import gc
import platform
import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch


def spread(values: list[float]) -> dict:
    low, high = np.percentile(values, [25, 75]).tolist()
    return dict(median=statistics.median(values), low=low, high=high)


def extra_memory(run: Callable, device: str, warm_up: bool = True) -> float | None:
    """Megabytes that a run takes at its peak beyond what is there before; None where this cannot be measured."""
    if warm_up:
        run()
    gc.collect()
    if device.startswith('cuda'):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    status = Path('/proc/self/status')
    if not status.exists():
        return None
    # Freed memory that the process still has would hide what a run takes.
    ctypes.CDLL(None).malloc_trim(0)
    Path('/proc/self/clear_refs').write_text('5')
    before = _status_kb(status, 'VmRSS')
    run()
    return (_status_kb(status, 'VmHWM') - before) * 1024 / 1e6


def _status_kb(status: Path, key: str) -> int:
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(key + ':'))


def cpu_name() -> str:
    info = Path('/proc/cpuinfo')
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(':')[2].strip() for line in lines if line.startswith('model name')), platform.machine())


def boxes_in(count: int, height: int, width: int) -> torch.Tensor:
    """Boxes in an image, most of them small, as in photographs."""
    generator = torch.Generator().manual_seed(count)
    image = torch.tensor([width, height])
    sides = torch.rand(count, 2, generator=generator) ** 2 * 0.8 * image + 8
    centres = torch.rand(count, 2, generator=generator) * image
    boxes = torch.cat([centres - sides / 2, centres + sides / 2], dim=1)
    return torch.minimum(boxes.clamp(min=0), image.repeat(2).float())


def mask_logits(count: int, size: tuple[int, int]) -> torch.Tensor:
    """Mask logits (n, 1, h, w) with smooth outlines, as trained weights give them, but more of them."""
    generator = torch.Generator().manual_seed(count)
    logits = torch.randn(count, 1, 5, 5, generator=generator) * 4
    return torch.nn.functional.interpolate(logits, tuple(size), mode='bicubic')
