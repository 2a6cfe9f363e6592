import errno
import functools
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from mmdet.registry import HOOKS
from mmengine import hooks
from mmengine.dist import master_only
from mmengine.logging import print_log
from mmengine.runner import Runner


@HOOKS.register_module()
class LoggerHook(hooks.LoggerHook):
    """MMEngine's ``LoggerHook``; a log that cannot be written does not end the run, for example on a full disk.

    An error is logged once for each of these: backend of the visualizer, log file, standard output, copy in
    ``out_dir``. They are tried again with every entry. If a disk without room stops a metric of the validation, the
    validation has no value of it. In MMDetection's scope, this class replaces MMEngine's, under the same name.
    """

    def before_run(self, runner: Runner) -> None:
        """Catch the errors of everything that writes logs."""
        super().before_run(runner)
        self._failed: set[str] = set()
        for name, backend in runner.visualizer._vis_backends.items():
            for method in ('add_graph', 'add_image', 'add_scalar', 'add_scalars', 'close'):
                self._catch(backend, method, name)
        for handler in runner.logger.handlers:
            if isinstance(handler, logging.FileHandler):
                handler.handleError = functools.partial(self._say, handler.baseFilename)
        # Libraries print.
        for name in ('stdout', 'stderr'):
            for method in ('write', 'flush'):
                self._catch(getattr(sys, name), method, name)

    def before_val(self, runner: Runner) -> None:
        """Catch a full disk where a metric writes a file."""
        for metric in runner.val_loop.evaluator.metrics:
            self._catch(metric, 'compute_metrics', f'A file of {type(metric).__name__}', (errno.ENOSPC, errno.EDQUOT))

    @master_only
    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Write the metrics. In MMEngine, all processes write them into one file at the same time."""
        super().after_test_epoch(runner, metrics)

    def after_run(self, runner: Runner) -> None:
        """Close the visualizer, and copy the logs to ``out_dir``."""
        with self._errors_of(str(self.out_dir)):
            super().after_run(runner)

    def _catch(self, owner: Any, method: str, name: str, numbers: tuple[int, ...] = ()) -> None:
        function = getattr(owner, method)
        # Another run of this process may have come before.
        if not isinstance(function, functools.partial):
            setattr(owner, method, functools.partial(self._call, function, name, numbers))

    def _call(self, function: Callable, name: str, numbers: tuple[int, ...], *args: Any, **kwargs: Any) -> Any:
        with self._errors_of(name, numbers):
            return function(*args, **kwargs)
        # No metrics.
        return {}

    @contextmanager
    def _errors_of(self, name: str, numbers: tuple[int, ...] = ()) -> Iterator[None]:
        try:
            yield
        # Services have errors of their own.
        except Exception as e:
            if numbers and getattr(e, 'errno', None) not in numbers:
                raise
            self._say(name)

    def _say(self, name: str, record: object = None) -> None:
        """Log the error that is being handled. ``record`` is what a handler of a logger passes."""
        if name not in self._failed:
            self._failed.add(name)
            text = f'{name} cannot be written ({sys.exc_info()[1]}): it will have gaps. The run goes on.'
            print_log(text, 'current', logging.ERROR)
