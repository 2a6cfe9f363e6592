"""The page's JavaScript prepares images and places masks as the runtime does, and the page shows what it finds."""

import base64
import functools
import http.server
import json
import shutil
import subprocess
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.browser import Browser
from support.chromium import needs_chromium
from support.small_graph import fixed_metadata, metadata, write_onnx, write_prepared

from mmdet_sag.deployment import runtime

PAGE = Path(__file__).parents[3] / 'demo/serving/browser'
ONNXRUNTIME = PAGE / 'node_modules/onnxruntime-web'
needs_node = pytest.mark.skipif(shutil.which('node') is None, reason='Node.js is not installed')
SCRIPT = """
import {{ finish, prepare, resizedSize }} from '{module}';
let text = '';
for await (const part of process.stdin) text += part;
const given = JSON.parse(text);
const results = given.images.map(({{ width, height, data, metadata }}) => {{
  const image = {{ width, height, data: Uint8Array.from(data) }};
  const {{ images, dims, size, scale }} = prepare(image, metadata);
  const count = given.scores.length;
  // Detections of a fixed number have the dimension of the batch too.
  const padding = new Array(metadata.detections ? metadata.detections - count : 0).fill(0);
  const outputs = {{
    boxes: {{ data: Float32Array.from(given.boxes) }},
    scores: {{ data: Float32Array.from([...given.scores, ...padding]) }},
    labels: {{ data: given.labels.map(BigInt) }},
    mask_probs: {{ dims: [count + padding.length, 28, 28], data: Float32Array.from(given.mask_probs) }},
  }};
  if (metadata.detections) {{
    outputs.num_detections = {{ data: [BigInt(count)] }};
    outputs.mask_probs.dims.unshift(1);
  }}
  const objects = finish(outputs, scale, image, metadata, 0);
  return {{
    images: [...images], dims, size,
    objects: objects.map((object) => ({{ ...object, mask: {{ ...object.mask, pixels: [...object.mask.pixels] }} }})),
  }};
}});
console.log(JSON.stringify({{ results, sizes: given.sizes.map(([w, h, settings]) => resizedSize(w, h, settings)) }}));
"""


def run_in_node(given: dict, tmp_path: Path) -> dict:
    script = tmp_path / 'check.mjs'
    script.write_text(SCRIPT.format(module=(PAGE / 'segment.js').as_uri()))
    result = subprocess.run(['node', script], input=json.dumps(given), capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


class Given(runtime.Model):
    """A model that gives certain outputs."""

    def __init__(self, described: dict, outputs: dict) -> None:
        self.metadata, self.outputs = {**described, 'detections': None}, outputs

    def _run(self, **inputs: np.ndarray) -> dict:
        self.inputs = inputs
        return dict(self.outputs)


@needs_node
def test_the_javascript_computes_what_the_runtime_does(tmp_path, monkeypatch):
    generator = np.random.default_rng(0)
    cases = [
        (generator.integers(0, 256, (*shape, 3), dtype=np.uint8), described)
        for shape, described in (
            ((48, 64), metadata('pillow')),
            ((200, 90), metadata('pillow', inclusive_boxes=True)),
            ((50, 70), metadata('cv2')),
            ((90, 70), fixed_metadata('pillow')),
            ((31, 45), fixed_metadata('pillow', in_graph=True)),
        )
    ]
    probs = np.float32([cv2.GaussianBlur(generator.random((28, 28)), (0, 0), 4) for _ in range(4)])
    probs = np.float32(1 / (1 + np.exp(-60 * (probs - probs.mean()))))
    boxes = np.float32([[3, 4, 50, 40], [-8, -3, 20, 90], [10, 10, 10, 30], [500, 3, 520, 9]])
    outputs = dict(
        boxes=boxes,
        scores=np.float32([0.9, 0.8, 0.7, 0.6]),
        labels=np.int64([0, 1, 0, 1]),
        image_indices=np.zeros(4, np.int64),
        mask_probs=probs,
        mask_scores=np.float32([0.9, 0.8, 0.7, 0.6]),
    )
    sizes = [
        (width, height, dict(mode=mode, scale=scale))
        for width, height in ((640, 480), (427, 640), (100, 900), (900, 100), (333, 333))
        for mode in ('keep_ratio', 'short_side', 'exact', 'fit')
        for scale in ([1333, 800], [90, 75])
    ]
    given = dict(
        images=[
            dict(
                width=image.shape[1],
                height=image.shape[0],
                data=cv2.cvtColor(image, cv2.COLOR_BGR2RGBA).ravel().tolist(),
                metadata=described,
            )
            for image, described in cases
        ],
        sizes=sizes,
        **{name: values.ravel().tolist() for name, values in outputs.items()},
    )
    found = run_in_node(given, tmp_path)
    assert [tuple(size) for size in found['sizes']] == [tuple(runtime.resized_size(*size)) for size in sizes]
    for (image, described), theirs in zip(cases, found['results']):
        model = Given(described, outputs)
        monkeypatch.setattr(runtime, 'load_model', lambda *_, model=model: model)
        expected = runtime.Predictor('given')(image)
        images = np.float32(theirs['images']).reshape(theirs['dims'])
        # OpenCV's bilinear filter rounds otherwise: a level is 0.018.
        tolerance = 1e-6 if described['preprocessing']['resize']['backend'] == 'pillow' else 0.02
        np.testing.assert_allclose(images, model.inputs['images'], atol=tolerance)
        if 'in_graph' not in described['preprocessing']:
            np.testing.assert_array_equal([theirs['size']], model.inputs['image_sizes'])
        np.testing.assert_allclose([thing['box'] for thing in theirs['objects']], expected['boxes'], rtol=1e-6)
        assert [thing['name'] for thing in theirs['objects']] == ['green', 'blue', 'green', 'blue']
        different = 0
        for thing, mask in zip(theirs['objects'], expected['masks']):
            part, bitmap = thing['mask'], np.zeros(image.shape[:2], bool)
            rows, columns = (slice(part[a], part[a] + part[b]) for a, b in (('top', 'height'), ('left', 'width')))
            bitmap[rows, columns] = np.reshape(part['pixels'], (part['height'], part['width']))
            different += (bitmap != runtime.decode_mask(mask)).sum()
        # JavaScript computes in float64: where a probability is within the last bit of float32 of the threshold.
        assert different <= 1
        assert runtime.decode_mask(expected['masks'][0]).sum() > 100


@pytest.fixture
def address(tmp_path):
    """Address of a web server of the page, and in it models."""
    for package in ('onnx', 'onnxscript', 'onnxruntime'):
        pytest.importorskip(package)
    folder = tmp_path / 'page'
    shutil.copytree(PAGE, folder, ignore=shutil.ignore_patterns('node_modules'))
    (folder / 'node_modules').symlink_to(PAGE / 'node_modules')
    write_onnx(folder / 'exported')
    write_onnx(folder / 'panoptic', runtime_version=2, panoptic=dict(num_things=2))
    write_prepared(folder / 'prepared')
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f'http://127.0.0.1:{server.server_port}/index.html'
        server.shutdown()


@needs_chromium
@pytest.mark.skipif(not ONNXRUNTIME.is_dir(), reason=f'onnxruntime-web is not installed (npm install in {PAGE})')
def test_the_page_segments_a_dropped_picture(address, tmp_path):
    picture = tmp_path / 'picture.png'
    generator = np.random.default_rng(0)
    image = cv2.resize(generator.integers(0, 256, (6, 8, 3), dtype=np.uint8), (160, 120))
    cv2.imwrite(str(picture), image)
    with Browser() as browser:
        # Of the panoptic model, the page has the instances.
        for query, folder in (('?model=prepared', 'prepared'), ('?model=panoptic', 'exported'), ('', 'exported')):
            browser.open(address + query)
            browser.wait_for("document.querySelector('#said')?.textContent === 'Ready.'")
            data = dict(items=[], files=[str(picture)], dragOperationsMask=1)
            for kind in ('dragEnter', 'dragOver', 'drop'):
                browser.call('Input.dispatchDragEvent', type=kind, x=200, y=200, data=data)
            browser.wait_for("document.querySelector('#said').textContent === '2 objects.'")
            rows = browser.evaluate(
                "[...document.querySelectorAll('tr')].map((row) => [...row.cells].map((c) => c.innerText))"
            )
            result = runtime.Predictor(tmp_path / 'page' / folder)(image)
            expected = [
                ['green' if label == 0 else 'blue', f'{score:.3f}', ', '.join(f'{side:.1f}' for side in box)]
                for label, score, box in zip(result['labels'], result['scores'], result['boxes'])
                if score >= 0.3
            ]
            assert rows == [['class', 'score', 'x1, y1, x2, y2'], *expected]
            note = browser.evaluate("document.querySelector('#note').textContent")
            assert note.startswith('This page shows the instances') if 'panoptic' in query else note == ''
        pixels = browser.evaluate("document.querySelector('#canvas').toDataURL()").partition(',')[2]
        shown = cv2.imdecode(np.frombuffer(base64.b64decode(pixels), np.uint8), cv2.IMREAD_COLOR)
        changed = (shown != image).any(axis=2)
        masks = runtime.decode_mask(result['masks'][0]) | runtime.decode_mask(result['masks'][1])
        # The frames of the boxes are drawn too.
        assert (changed[masks]).mean() > 0.99 and (changed & ~masks).mean() < 0.1
        set_threshold = """(() => {
          const slider = document.querySelector('#threshold');
          slider.value = 0.8;
          slider.dispatchEvent(new Event('input'));
        })()"""
        browser.evaluate(set_threshold)
        browser.wait_for("document.querySelector('#said').textContent === '1 object.'")
        browser.choose_file('#file', Path(__file__))
        browser.wait_for("document.querySelector('#failed').textContent.includes('no picture')")
        assert browser.messages == []
