"""The HTTP service gives what the runtime finds, to many at once, and one line of JSON for what it cannot use."""

import asyncio
import http.client
import importlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from support.small_graph import write_onnx

for package in ('onnx', 'onnxruntime', 'starlette', 'uvicorn'):
    pytest.importorskip(package, reason=f'the service and its test need {package}')

serve = importlib.import_module('serving.serve')
OPTIONS = ('--max-megabytes', '0.2', '--max-megapixels', '0.1', '--max-requests', '9', '--upload-timeout', '1')


@pytest.fixture(scope='module')
def service(tmp_path_factory) -> Iterator:
    """A service that runs on a free port, its ``port``."""
    folder = tmp_path_factory.mktemp('serving') / 'exported'
    write_onnx(folder)
    service = serve.Service(serve.load_runtime(folder), folder, serve.parse_args([str(folder), *OPTIONS]))
    server = serve.uvicorn.Server(serve.uvicorn.Config(service.app(), log_level='error'))
    listening = socket.create_server(('127.0.0.1', 0))
    service.port = listening.getsockname()[1]
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listening])))
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield service
    server.should_exit = True
    thread.join()


def ask(service, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection('127.0.0.1', service.port, timeout=60)
    connection.request(method, path, body, headers)
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response.status, content


def picture(seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    small = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return cv2.resize(small, tuple(generator.integers(60, 120, 2).tolist()))


def as_png(image: np.ndarray) -> bytes:
    return cv2.imencode('.png', image)[1].tobytes()


def test_eight_clients_at_once_get_the_results_of_their_own_images(service):
    images = [picture(seed) for seed in range(40)]
    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(lambda image: ask(service, 'POST', '/predict?score_thr=0', as_png(image)), images))
    for image, (status, content) in zip(images, answers):
        expected = service.predictor.as_json(service.predictor(image))
        height, width = image.shape[:2]
        assert (status, json.loads(content)) == (200, dict(height=height, width=width, objects=expected))
    assert len({content for _, content in answers}) == 40


def test_the_threshold_is_of_the_request_or_of_the_service(service):
    content = as_png(picture(0))
    found = [
        len(json.loads(ask(service, 'POST', path, content)[1])['objects'])
        for path in ('/predict', '/predict?score_thr=0.8')
    ]
    assert found == [2, 1]


def test_the_picture_is_what_the_runtime_draws(service):
    image = picture(1)
    status, content = ask(service, 'POST', '/picture?score_thr=0.5', as_png(image))
    expected = service.predictor.draw(image, service.predictor(image), 0.5)
    assert status == 200
    np.testing.assert_array_equal(cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR), expected)
    assert (expected != image).any()


def test_its_health_names_the_model(service):
    expected = dict(status='ok', model='CenterMask', precision='fp32', classes=['green', 'blue'])
    status, content = ask(service, 'GET', '/health')
    assert (status, json.loads(content)) == (200, expected)


BAD = {
    'no image': (
        '/predict',
        b'hello',
        415,
        'the body is no image file (BMP, JPEG, PNG, TIFF, WEBP): send the file itself',
    ),
    'nothing': ('/predict', b'', 415, 'the body is no image file'),
    'damaged': ('/predict', as_png(picture(0))[:60], 422, 'the image is damaged'),
    'too many bytes': ('/predict', bytes(200_001), 413, 'the body is larger than 0.2 MB'),
    'too many pixels': ('/picture', as_png(np.zeros((400, 400, 3), np.uint8)), 413, '400x400 pixels are more than 0.1'),
    'threshold': ('/predict?score_thr=many', b'', 400, 'score_thr=many: give a number from 0 to 1'),
    'not a number': ('/predict?score_thr=nan', b'', 400, 'score_thr=nan: give a number from 0 to 1'),
    'path': ('/segment', b'', 404, 'Not Found'),
}


@pytest.mark.parametrize('path, body, status, message', BAD.values(), ids=BAD)
def test_what_it_cannot_use_is_one_error(service, path, body, status, message):
    found, content = ask(service, 'POST', path, body)
    assert found == status
    error = json.loads(content)
    assert list(error) == ['error'] and error['error'].startswith(message)


def test_a_method_that_it_has_not_is_an_error_too(service):
    assert ask(service, 'GET', '/predict') == (405, b'{"error":"Method Not Allowed"}')


def test_a_body_without_a_length_ends_at_the_limit(service):
    connection = http.client.HTTPConnection('127.0.0.1', service.port, timeout=60)
    parts = iter([bytes(100_000), bytes(100_001)])
    connection.request('POST', '/predict', parts, encode_chunked=True, headers={'Transfer-Encoding': 'chunked'})
    assert connection.getresponse().status == 413
    connection.close()


def test_slow_bodies_end_and_too_many_of_them_are_refused(service):
    slow = [socket.create_connection(('127.0.0.1', service.port), 60) for _ in range(9)]
    for connection in slow:
        connection.sendall(b'POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n')
    while service.num_requests < 9:
        time.sleep(0.01)
    assert ask(service, 'POST', '/predict', as_png(picture(0)))[0] == 503
    for connection in slow:
        assert connection.recv(4096).startswith(b'HTTP/1.1 408 ')
        connection.close()
    assert ask(service, 'POST', '/predict', as_png(picture(0)))[0] == 200


def test_a_failure_of_the_model_is_an_error_and_the_service_goes_on(service, monkeypatch):
    def fail(image):
        raise MemoryError

    with monkeypatch.context() as context:
        context.setattr(service, 'predictor', fail)
        assert ask(service, 'POST', '/predict', as_png(picture(0))) == (
            500,
            b'{"error":"the service failed; its log says more"}',
        )
    assert ask(service, 'POST', '/predict', as_png(picture(0)))[0] == 200


def test_a_folder_without_an_export_is_refused(tmp_path, capsys):
    assert serve.main([str(tmp_path)]) == 2
    expected = f'error: {tmp_path}/runtime.py does not exist: name a folder that tools/deployment/export.py wrote\n'
    assert capsys.readouterr().err == expected
