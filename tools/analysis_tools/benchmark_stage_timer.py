import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import torch


class StageTimer:
    """Time that a detector spends in each stage of one run; a stage within another counts for itself alone.

    Args:
        device: Device of the model; work on an accelerator is waited for at each change of stage.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)
        self._stack: list[str] = []
        self._since = 0.0

    def reset(self) -> None:
        """Forget what was measured."""
        self.seconds.clear()

    @contextmanager
    def stage(self, name: str):
        """Count what runs inside for the stage ``name``."""
        self._switch()
        self._stack.append(name)
        try:
            yield
        finally:
            self._switch()
            self._stack.pop()

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

    def _switch(self) -> None:
        if self.device.type == 'cuda':
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        if self._stack:
            self.seconds[self._stack[-1]] += now - self._since
        self._since = now
