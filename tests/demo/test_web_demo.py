import base64
import importlib.util
import os
import runpy
import socket
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.browser import Browser
from support.chromium import needs_chromium
from support.small_graph import write_onnx
from support.tiny_checkpoint import write_tiny_checkpoint
from support.tool import run_tool

from mmdet_sag.apis import ImagePredictor

DEMO = Path(__file__).resolve().parents[2] / 'demo/web_demo.py'
has_gradio = importlib.util.find_spec('gradio') is not None
IMAGE = "document.querySelector('#{0} img')?.src"
# What gradio itself writes into the console of a headless browser.
OF_GRADIO = 'Method not implemented.'


@needs_chromium
@pytest.mark.skipif(not has_gradio, reason='gradio is not installed (pip install gradio)')
def test_a_picture_is_predicted_once_and_drawn_for_each_threshold(tmp_path):
    write_tiny_checkpoint(tmp_path)
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    command = [sys.executable, DEMO, tmp_path / 'config.py', tmp_path / 'model.pth', '--port', port]
    environment = {**os.environ, 'GRADIO_TEMP_DIR': str(tmp_path / 'gradio'), 'PYTHONUNBUFFERED': '1'}
    server = subprocess.Popen(
        [str(part) for part in command], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        printed = []
        for line in server.stdout:
            printed.append(line)
            if 'Running on' in line:
                break
        assert f'http://127.0.0.1:{port}' in printed[-1], ''.join(printed)
        with Browser() as browser:
            browser.open(f'http://127.0.0.1:{port}/')
            browser.wait_for("!!document.querySelector('#image input[type=file]')")
            assert browser.evaluate('document.title') == 'config: mmdet_sag'
            assert 'CenterMask, 2 classes' in browser.evaluate('document.body.innerText')
            # Those of the config's test data.
            browser.wait_for("document.querySelectorAll('#examples img').length === 4")
            browser.choose_file('#image input[type=file]', tmp_path / 'data/images/1.png')
            browser.wait_for("document.querySelector('#said')?.innerText.includes('of 0.50 or more')")
            masks = browser.wait_for(IMAGE.format('masks'))
            assert browser.wait_for(IMAGE.format('attention'))
            buttons = "[...document.querySelectorAll('#masks button, #attention button')].map((b) => b.title).join()"
            assert 'Fullscreen' in browser.evaluate(buttons) and 'Share' not in browser.evaluate(buttons)
            set_value = """(() => {
              const field = document.querySelector('#score input[type=number]');
              Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, 'value').set.call(field, '1');
              for (const kind of ['input', 'change', 'blur']) field.dispatchEvent(new Event(kind, {bubbles: true}));
            })()"""
            browser.evaluate(set_value)
            said = browser.wait_for("document.querySelector('#said').innerText.match(/.* 1.00 .*/)?.[0]")
            assert 'Nothing has a score of 1.00 or more; the best is 0.' in said
            browser.wait_for(f'{IMAGE.format("masks")} !== {masks!r}')
            assert [message for message in browser.messages if OF_GRADIO not in message] == []
            picture = cv2.imdecode(np.frombuffer(base64.b64decode(browser.screenshot()), np.uint8), cv2.IMREAD_COLOR)
            assert picture.std() > 10
    finally:
        server.kill()
        server.wait()


@pytest.mark.skipif(has_gradio, reason='gradio is installed')
def test_an_exported_model_is_shown_too(tmp_path, monkeypatch):
    pytest.importorskip('onnxruntime')
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(DEMO.parent))
    web_demo = runpy.run_path(str(DEMO))
    write_onnx(tmp_path / 'exported')
    look = web_demo['Look'](ImagePredictor('exported'))
    assert look.predictor.inferencer.cfg.model.type == 'CenterMask'
    # Not the images that lie in the current folder.
    cv2.imwrite('picture.png', np.zeros((8, 8, 3), np.uint8))
    assert web_demo['example_images'](look) == []
    _, masks, attention, said = look.predict(np.zeros((64, 48, 3), np.uint8), 0.5)
    assert masks.any() and attention is None and 'have a score of 0.50 or more' in said


def test_without_gradio_its_name_is_said(tmp_path):
    result = run_tool(DEMO, 'a.py', 'b.pth')
    assert result.returncode == 2
    error = "error: the package gradio is not installed: pip install 'mmdet_sag[web]'"
    assert result.stderr.splitlines()[-1] == error


def test_an_older_gradio_is_refused(tmp_path):
    (tmp_path / 'gradio.py').write_text("__version__ = '5.49.1'\n")
    result = run_tool(DEMO, 'a.py', 'b.pth', env={**os.environ, 'PYTHONPATH': str(tmp_path)})
    assert result.returncode == 2
    expected = 'error: the page needs gradio 6, and 5.49.1 is installed: pip install -U gradio'
    assert result.stderr.splitlines()[-1] == expected
