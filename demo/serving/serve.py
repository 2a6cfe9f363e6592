"""Answer HTTP requests with a model that tools/deployment/export.py wrote.

POST an image file to /predict for boxes, scores, labels and masks (COCO's run lengths) as JSON, or to /picture for a
PNG in which they are drawn; GET /health says whether the service runs. It needs the packages of requirements.txt beside
it, neither PyTorch nor MMDetection, and is there for this machine alone unless --host says otherwise.
"""

import argparse
import importlib.util
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

try:
    import anyio
    import anyio.to_thread
    import numpy as np
    import uvicorn
    from PIL import Image
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route
except ImportError as e:
    packages = Path(__file__).with_name('requirements.txt')
    print(f'error: the package {e.name} is not installed: pip install -r {packages}', file=sys.stderr)
    sys.exit(2)

IMAGE_FORMATS = ('BMP', 'JPEG', 'PNG', 'TIFF', 'WEBP')
# The service's own limit is lower, and an answer instead of a warning.
Image.MAX_IMAGE_PIXELS = None


class Service:
    """Answers requests with one model.

    Args:
        runtime: The module ``runtime`` beside the model.
        folder: The model's folder.
        args: Options of :func:`parse_args`.
    """

    def __init__(self, runtime: ModuleType, folder: Path, args: argparse.Namespace) -> None:
        self.runtime, self.args = runtime, args
        self.predictor = runtime.Predictor(folder, args.threads, args.device)
        # The first image takes longer, and may show that the device lacks something.
        self.predictor(np.zeros((480, 640, 3), np.uint8))
        # A model uses all cores by itself: images wait for each other, decoded one at a time.
        self.turn = anyio.CapacityLimiter(1)
        self.num_requests = 0

    def app(self) -> Starlette:
        """The service as an ASGI application."""
        routes = [
            Route('/health', self.health),
            Route('/predict', self.predict, methods=['POST']),
            Route('/picture', self.picture, methods=['POST']),
        ]
        return Starlette(routes=routes, exception_handlers={HTTPException: _as_json, Exception: _as_json})

    async def health(self, request: Request) -> Response:
        metadata = self.predictor.metadata
        return JSONResponse(dict(status='ok', **{key: metadata[key] for key in ('model', 'precision', 'classes')}))

    async def predict(self, request: Request) -> Response:
        def respond(image: np.ndarray, result: dict, score_thr: float) -> Response:
            objects = [found for found in self.predictor.as_json(result) if found['score'] >= score_thr]
            return JSONResponse(dict(height=image.shape[0], width=image.shape[1], objects=objects))

        return await self._answer(request, respond)

    async def picture(self, request: Request) -> Response:
        def respond(image: np.ndarray, result: dict, score_thr: float) -> Response:
            content = io.BytesIO()
            Image.fromarray(self.predictor.draw(image, result, score_thr)[..., ::-1]).save(content, 'PNG')
            return Response(content.getvalue(), media_type='image/png')

        return await self._answer(request, respond)

    async def _answer(self, request: Request, respond: Callable[[np.ndarray, dict, float], Response]) -> Response:
        score_thr = self._score_thr(request)
        if self.num_requests >= self.args.max_requests:
            raise HTTPException(503, 'too many requests at once: try again', {'Retry-After': '1'})
        self.num_requests += 1
        try:
            content = await self._read(request)

            def work() -> Response:
                image = self._decode(content)
                try:
                    result = self.predictor(image)
                except self.runtime.RuntimeInputError as e:
                    raise HTTPException(422, str(e)) from e
                return respond(image, result, score_thr)

            return await anyio.to_thread.run_sync(work, limiter=self.turn)
        finally:
            self.num_requests -= 1

    def _score_thr(self, request: Request) -> float:
        default = self.predictor.picture_score_thr if self.args.score_thr is None else self.args.score_thr
        text = request.query_params.get('score_thr', str(default))
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not 0 <= value <= 1:
            raise HTTPException(400, f'score_thr={text}: give a number from 0 to 1')
        return value

    async def _read(self, request: Request) -> bytes:
        """The body, as long as it is within the limits."""
        limit = self.args.max_megabytes * 10**6
        too_large = HTTPException(413, f'the body is larger than {self.args.max_megabytes:g} MB')
        if int(request.headers.get('content-length', 0)) > limit:
            raise too_large
        content = bytearray()
        try:
            with anyio.fail_after(self.args.upload_timeout):
                async for part in request.stream():
                    content += part
                    if len(content) > limit:
                        raise too_large
        except TimeoutError as e:
            raise HTTPException(408, f'the body did not arrive within {self.args.upload_timeout:g} s') from e
        except ClientDisconnect as e:
            raise HTTPException(400, 'the body did not arrive') from e
        return bytes(content)

    def _decode(self, content: bytes) -> np.ndarray:
        """Blue, green, red; the size is looked at before anything is decoded."""
        try:
            with Image.open(io.BytesIO(content), formats=IMAGE_FORMATS) as header:
                width, height = header.size
        # Pillow's readers fail in every way.
        except Exception as e:
            kinds = ', '.join(IMAGE_FORMATS)
            raise HTTPException(415, f'the body is no image file ({kinds}): send the file itself, not a form') from e
        if width * height > self.args.max_megapixels * 10**6:
            raise HTTPException(413, f'{width}x{height} pixels are more than {self.args.max_megapixels:g} megapixels')
        cv2 = self.runtime.cv2
        try:
            image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
        except cv2.error:
            image = None
        if image is None:
            raise HTTPException(422, 'the image is damaged')
        return image


async def _as_json(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        return JSONResponse(dict(error=error.detail), error.status_code, error.headers)
    # Starlette logs it.
    return JSONResponse(dict(error='the service failed; its log says more'), 500)


def load_runtime(folder: Path) -> ModuleType:
    """The runtime.py that an export wrote beside its model.

    Raises:
        ValueError: There is none.
    """
    path = folder / 'runtime.py'
    if not path.is_file():
        raise ValueError(f'{path} does not exist: name a folder that tools/deployment/export.py wrote')
    spec: Any = importlib.util.spec_from_file_location('runtime', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('folder', type=Path, help='folder that tools/deployment/export.py wrote')
    parser.add_argument('--host', default='127.0.0.1', help='address to listen at')
    parser.add_argument('--port', type=int, default=8000, help='port to listen at')
    parser.add_argument(
        '--score-thr', type=float, help="lowest score, unless a request has ?score_thr=; default: the model's"
    )
    parser.add_argument('--threads', type=int, default=0, help='threads of the model; 0: one per core')
    parser.add_argument('--device', default='CPU', help='CPU, or GPU where the runtime library has it')
    parser.add_argument('--max-megabytes', type=float, default=20, help='largest body')
    parser.add_argument('--max-megapixels', type=float, default=50, help='largest image')
    parser.add_argument('--max-requests', type=int, default=32, help='requests at once; more are answered by 503')
    parser.add_argument('--upload-timeout', type=float, default=30, help='seconds within which a body must arrive')
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    args = parse_args(arguments)
    # OpenCV reads it when it is imported, which the runtime does.
    os.environ.setdefault('OPENCV_IO_MAX_IMAGE_PIXELS', str(int(args.max_megapixels * 10**6)))
    try:
        runtime = load_runtime(args.folder)
        service = Service(runtime, args.folder, args)
    # The runtime's RuntimeInputError is one.
    except ValueError as e:
        print(f'error: {e}', file=sys.stderr)
        return 2
    uvicorn.run(service.app(), host=args.host, port=args.port)
    return 0


if __name__ == '__main__':
    sys.exit(main())
