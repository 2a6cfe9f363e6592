import json
import shlex
from pathlib import Path

import cv2
from support.tool import run_tool

from mmdet_sag.__main__ import COMMANDS, tool_path

NOTEBOOK = Path(__file__).resolve().parents[2] / 'demo/tutorial.ipynb'


def test_the_tutorial_goes_from_labels_to_an_exported_model(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    sources = [
        ''.join(cell['source']) for cell in json.loads(NOTEBOOK.read_text())['cells'] if cell['cell_type'] == 'code'
    ]
    assert sources[0].startswith('num_images, num_steps =')
    namespace = {}
    for source in ['num_images, num_steps = 8, 2', *sources[1:]]:
        lines = source.splitlines(keepends=True)
        # What Jupyter gives to a shell, here without importing everything again.
        exec(''.join(line for line in lines if not line.startswith('!')), namespace)
        for line in lines:
            if line.startswith('!'):
                program, command, *arguments = shlex.split(line[1:].format(**namespace))
                assert program == 'mmdet-sag'
                process = run_tool(tool_path(COMMANDS[command][0]), *arguments)
                assert process.returncode == 0, process.stdout + process.stderr
    assert 'detections without PyTorch' in capsys.readouterr().out
    # Small images are enlarged.
    assert cv2.imread('tutorial/exported.png').shape == (512, 512, 3)
    assert 'mask AP' in Path('tutorial/report.html').read_text()
