import json
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from .chromium import CHROMIUM, OPTIONS


class Browser:
    """A headless Chromium with one page, driven by the DevTools protocol over a pipe.

    Args:
        width: Width of the window.
        height: Height of the window.
    """

    def __init__(self, width: int = 1300, height: int = 900) -> None:
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        # Chromium reads at descriptor 3 and writes at 4.
        read_commands, self._commands = os.pipe()
        self._answers, write_answers = os.pipe()
        script = f'exec "$0" "$@" 3<&{read_commands} 4>&{write_answers}'
        self._process = subprocess.Popen(
            [
                *('bash', '-c', script, CHROMIUM, *OPTIONS, '--remote-debugging-pipe', 'about:blank'),
                *(f'--user-data-dir={self._profile.name}', f'--window-size={width},{height}'),
            ],
            pass_fds=(read_commands, write_answers),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(read_commands)
        os.close(write_answers)
        self._buffer, self._number, self._session = b'', 0, None
        self.messages: list[str] = []
        target = next(t for t in self.call('Target.getTargets')['targetInfos'] if t['type'] == 'page')
        attached = self.call('Target.attachToTarget', targetId=target['targetId'], flatten=True)
        self._session = attached['sessionId']
        for domain in ('Page', 'Runtime', 'Log', 'DOM'):
            self.call(f'{domain}.enable')

    def __enter__(self) -> 'Browser':
        return self

    def __exit__(self, *args) -> None:
        self._process.terminate()
        self._process.wait(30)
        os.close(self._commands)
        os.close(self._answers)
        self._profile.cleanup()

    def call(self, method: str, **params) -> dict:
        """Call a method of the protocol; warnings and errors of the console go to ``messages``."""
        self._number += 1
        message = dict(id=self._number, method=method, params=params)
        if self._session:
            message['sessionId'] = self._session
        os.write(self._commands, json.dumps(message).encode() + b'\0')
        while True:
            answer = self._next_message()
            if answer.get('id') == self._number:
                assert 'error' not in answer, answer['error']
                return answer['result']
            self._note(answer)

    def evaluate(self, expression: str) -> Any:
        """Value of an expression in the page."""
        result = self.call('Runtime.evaluate', expression=expression, returnByValue=True, awaitPromise=True)
        assert 'exceptionDetails' not in result, result['exceptionDetails']
        return result['result'].get('value')

    def wait_for(self, expression: str, seconds: float = 60) -> Any:
        """Wait until an expression is true; returns its value."""
        end = time.monotonic() + seconds
        while not (value := self.evaluate(expression)):
            assert time.monotonic() < end, f'{expression} did not become true'
            time.sleep(0.1)
        return value

    def open(self, address: str) -> None:
        """Go to a page."""
        self.call('Page.navigate', url=address)

    def choose_file(self, selector: str, path: Path) -> None:
        """Give a file to an input."""
        root = self.call('DOM.getDocument')['root']['nodeId']
        node = self.call('DOM.querySelector', nodeId=root, selector=selector)['nodeId']
        self.call('DOM.setFileInputFiles', files=[str(path)], nodeId=node)

    def screenshot(self) -> str:
        """Picture of the page, PNG in base64."""
        return self.call('Page.captureScreenshot')['data']

    def _next_message(self) -> dict:
        while b'\0' not in self._buffer:
            part = os.read(self._answers, 1 << 16)
            assert part, 'Chromium has ended'
            self._buffer += part
        message, _, self._buffer = self._buffer.partition(b'\0')
        return json.loads(message)

    def _note(self, event: dict) -> None:
        params = event.get('params', {})
        if event.get('method') == 'Runtime.consoleAPICalled' and params['type'] in ('error', 'warning', 'assert'):
            self.messages.append(' '.join(str(part.get('value', part.get('description'))) for part in params['args']))
        elif event.get('method') == 'Runtime.exceptionThrown':
            self.messages.append(params['exceptionDetails'].get('exception', {}).get('description', 'exception'))
        elif event.get('method') == 'Log.entryAdded' and params['entry']['level'] in ('error', 'warning'):
            self.messages.append(f'{params["entry"]["text"]} {params["entry"].get("url", "")}')
