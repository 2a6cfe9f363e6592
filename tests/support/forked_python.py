"""Stands in for the Python that torchrun starts its processes with: each is forked, as those of ``tool.py``.

As a script, it hands its arguments, folder, environment and streams to the server of :func:`serve`, hands on the
signals that it gets, and ends as the forked process ends. If it is killed, so is that one.
"""

import json
import multiprocessing
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1)
SERVER = 'FORKED_PYTHON_SERVER'


def serve(path: str, run: Callable[[list[str], str, dict[str, str]], None]) -> None:
    """Fork a process for each script that connects to the socket at ``path``, and call ``run`` in it.

    It ends with the process that started this one.
    """
    tests = multiprocessing.parent_process().sentinel
    # Nobody waits for the processes that guard the forked ones.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
        server.bind(path)
        server.listen()
        while tests not in select.select([server, tests], [], [])[0]:
            connection, _ = server.accept()
            if os.fork():
                connection.close()
                continue
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            message, streams, *_ = socket.recv_fds(connection, 1 << 20, 3)
            pid = os.fork()
            if pid:
                _guard(connection, pid)
            break
        else:
            return
    connection.close()
    # A group of its own, as torchrun gives it.
    os.setsid()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    # Those of the server know whether its own streams can seek.
    sys.stdout, sys.stderr = (os.fdopen(number, 'w', buffering=1, closefd=False) for number in (1, 2))
    run(*json.loads(message))


def _guard(connection: socket.socket, pid: int) -> None:
    def hand_on() -> None:
        while received := connection.recv(1):
            os.killpg(pid, received[0])
        os.killpg(pid, signal.SIGKILL)

    threading.Thread(target=hand_on, daemon=True).start()
    _, status = os.waitpid(pid, 0)
    connection.send(str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


def main() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.connect(os.environ[SERVER])
        for number in SIGNALS:
            signal.signal(number, lambda number, _: connection.send(bytes([number])))
        # The first argument is -u.
        job = sys.argv[2:], os.getcwd(), dict(os.environ)
        socket.send_fds(connection, [json.dumps(job).encode()], range(3))
        status = int(connection.recv(16))
    if status < 0:
        signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    sys.exit(status)


if __name__ == '__main__':
    main()
