"""``tools/train.py`` that sends signals to itself: ``signalled_train.py FILE PLAN ARGUMENTS...``.

The moments are counted in file operations (opening, renaming, removing), because these are the same in every run: a
training opens images, logs and checkpoints. PLAN is ``none`` or a list such as ``TERM@120+0.01,KILL@130``: SIGTERM 0.01
seconds after operation 120, then SIGKILL at operation 130. FILE gets the number of operations of a run that ended by
itself, before and after the first line of its log.
"""

import os
import runpy
import signal
import sys
import threading
from pathlib import Path

OPERATIONS = ('open', 'os.rename', 'os.remove')


def _plan(text: str) -> list[tuple[int, signal.Signals, float]]:
    plan = []
    for word in text.split(',') if text != 'none' else ():
        name, moment = word.split('@')
        operation, delay = moment.split('+') if '+' in moment else (moment, '0')
        plan.append((int(operation), signal.Signals[f'SIG{name}'], float(delay)))
    return sorted(plan)


def main() -> None:
    output, plan, pid = Path(sys.argv[1]).absolute(), _plan(sys.argv[2]), os.getpid()
    count, before = 0, None

    def observe(event: str, args: tuple) -> None:
        nonlocal count, before
        # Not in the workers of a data loader.
        if event not in OPERATIONS or os.getpid() != pid:
            return
        count += 1
        if before is None and str(args[0]).endswith('scalars.json'):
            before = count
        while plan and plan[0][0] <= count:
            _, number, delay = plan.pop(0)
            if delay:
                threading.Timer(delay, os.kill, (pid, number)).start()
            else:
                os.kill(pid, number)

    # Under nohup and in the background, a shell ignores these.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.addaudithook(observe)
    tool = str(Path(__file__).parents[2] / 'tools/train.py')
    sys.argv = [tool, *sys.argv[3:]]
    try:
        runpy.run_path(tool, run_name='__main__')
    finally:
        output.write_text(f'{before} {count}')


if __name__ == '__main__':
    main()
