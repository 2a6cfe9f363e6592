import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import torch


class StageTimer:
    """Time that a detector spends in each stage of one run; a stage within another counts for itself alone.

    Args:
        device: Device of the model. On CUDA, events mark the changes of stages: nothing waits for them in a run.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stack: list[str] = []
        # Where stages begin, those within which nothing is measured without a name.
        self._marks: list[tuple[str | None, Any]] = []

    def reset(self) -> None:
        """Forget what was measured."""
        self._marks.clear()

    def seconds(self) -> dict[str, float]:
        """Seconds of each stage."""
        if self.device.type == 'cuda':
            torch.cuda.synchronize(self.device)
        seconds: dict[str, float] = defaultdict(float)
        for (stage, start), (_, end) in zip(self._marks, self._marks[1:]):
            if stage is not None:
                seconds[stage] += start.elapsed_time(end) / 1000 if self.device.type == 'cuda' else end - start
        return dict(seconds)

    @contextmanager
    def stage(self, name: str):
        """Count what runs inside for the stage ``name``."""
        self._stack.append(name)
        self._mark()
        try:
            yield
        finally:
            self._stack.pop()
            self._mark()

    def watch(self, owner: Any, attribute: str, name: str) -> None:
        """Count calls of a function or method that is found as ``owner.attribute`` for the stage ``name``."""
        function: Callable = getattr(owner, attribute)

        def watched(*args, **kwargs):
            # Outside of a measured run, it runs as it is.
            if not self._stack:
                return function(*args, **kwargs)
            with self.stage(name):
                return function(*args, **kwargs)

        setattr(owner, attribute, watched)

    def _mark(self) -> None:
        now: Any = time.perf_counter()
        if self.device.type == 'cuda':
            now = torch.cuda.Event(enable_timing=True)
            now.record()
        self._marks.append((self._stack[-1] if self._stack else None, now))
