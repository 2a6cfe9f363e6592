"""Run a model that mmdet_sag exported on an image or a folder of images.

This file stands alone: it needs NumPy, OpenCV, and onnxruntime for a model.onnx or openvino for a model.xml.
Programs import :class:`Predictor` from it.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

# A model's metadata say which version of this file it needs.
RUNTIME_VERSION = 1
METADATA_KEY = 'mmdet_sag'
OUTPUTS = ('boxes', 'scores', 'labels', 'image_indices', 'mask_probs', 'mask_scores')
IMAGE_SUFFIXES = ('.bmp', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp')


class RuntimeInputError(ValueError):
    """An input cannot be used; the message is one line that names it and the remedy."""


class OnnxModel:
    """A model.onnx in onnxruntime, on the device ``CPU``, or ``GPU`` with onnxruntime-gpu; see :func:`load_model`."""

    def __init__(self, path: Path, num_threads: int = 0, device: str = 'CPU') -> None:
        with _one_line_errors(path, 'onnxruntime'):
            import onnxruntime

            provider = dict(CPU='CPUExecutionProvider', GPU='CUDAExecutionProvider').get(device, device)
            if provider not in onnxruntime.get_available_providers():
                raise RuntimeInputError(f'device {device}: this onnxruntime has no {provider}')
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = num_threads
            # Its warnings are about the graph, which the user did not write.
            options.log_severity_level = 3
            self.session = onnxruntime.InferenceSession(str(path), options, providers=[provider])
        texts = self.session.get_modelmeta().custom_metadata_map
        self.metadata = read_metadata(path, texts.get(METADATA_KEY), [x.name for x in self.session.get_outputs()])

    def __call__(self, images: np.ndarray, image_sizes: np.ndarray) -> dict:
        """Detect objects; :class:`Predictor` prepares images for it.

        Args:
            images: Normalized images of shape (N, 3, H, W), float32.
            image_sizes: Height and width of each without padding, shape (N, 2), int64.

        Returns:
            The model's outputs by name: ``boxes`` (n, 4) in pixels of the network's input, ``scores`` (n, ),
            ``labels`` (n, ), ``image_indices`` (n, ), ``mask_probs`` (n, h, w) and ``mask_scores`` (n, ).
        """
        outputs = self.session.run(list(OUTPUTS), dict(images=images, image_sizes=image_sizes))
        return dict(zip(OUTPUTS, outputs))


class OpenVINOModel:
    """A model.xml, and the model.bin beside it, in OpenVINO, on any of its devices; see :func:`load_model`."""

    def __init__(self, path: Path, num_threads: int = 0, device: str = 'CPU') -> None:
        with _one_line_errors(path, 'openvino'):
            import openvino

            if not path.with_suffix('.bin').is_file():
                raise RuntimeInputError(f'{path.with_suffix(".bin")} is missing: it holds the weights of {path.name}')
            core = openvino.Core()
            if device not in core.available_devices:
                raise RuntimeInputError(f'device {device}: OpenVINO finds {", ".join(core.available_devices)} here')
            model = core.read_model(str(path))
            text = model.get_rt_info([METADATA_KEY]).astype(str) if model.has_rt_info([METADATA_KEY]) else None
            names = [name for output in model.outputs for name in output.get_names()]
            self.metadata = read_metadata(path, text, names)
            config = dict(PERFORMANCE_HINT='LATENCY', INFERENCE_PRECISION_HINT='f32')
            hint = dict(bf16='bf16', fp16='f16').get(self.metadata['precision'])
            # Without the instructions for it, half precision would be computed in float32 anyway.
            if hint and self.metadata['precision'].upper() in core.get_property(device, 'OPTIMIZATION_CAPABILITIES'):
                config['INFERENCE_PRECISION_HINT'] = hint
            if num_threads:
                config['INFERENCE_NUM_THREADS'] = num_threads
            self.model = core.compile_model(model, device, config)

    def __call__(self, images: np.ndarray, image_sizes: np.ndarray) -> dict:
        """Detect objects; see :meth:`OnnxModel.__call__`.

        Raises:
            RuntimeInputError: The images are smaller than OpenVINO's pooling kernels.
        """
        if min(images.shape[2:]) < 64:
            height, width = images.shape[2:]
            raise RuntimeInputError(f'an input of {height}x{width} is too small for OpenVINO: pad it to 64 pixels')
        results = self.model(dict(images=images, image_sizes=image_sizes))
        return {name: results[name].copy() for name in OUTPUTS}


Model = OnnxModel | OpenVINOModel
LOADERS = {'.onnx': OnnxModel, '.xml': OpenVINOModel}


def load_model(path: str | Path, num_threads: int = 0, device: str = 'CPU') -> Model:
    """Load an exported model.

    Args:
        path: A model.onnx or model.xml, or the folder of one.
        num_threads: Number of threads; 0: one per core.
        device: Device that it runs on.

    Raises:
        RuntimeInputError: There is no model, its library is missing, or it is damaged or of another version.
    """
    path = Path(path)
    if path.is_dir():
        found = [file for file in (path / f'model{suffix}' for suffix in LOADERS) if file.is_file()]
        if not found:
            raise RuntimeInputError(f'{path}: holds neither model.onnx nor model.xml')
        path = found[0]
    if path.suffix not in LOADERS:
        raise RuntimeInputError(f'{path}: is neither .onnx nor .xml, which this runtime can read')
    if not path.is_file():
        raise RuntimeInputError(f'{path} does not exist, check the path')
    return LOADERS[path.suffix](path, num_threads, device)


class Predictor:
    """Finds objects and their masks in images; arguments and errors are those of :func:`load_model`."""

    def __init__(self, path: str | Path, num_threads: int = 0, device: str = 'CPU') -> None:
        self.model = load_model(path, num_threads, device)
        self.metadata = self.model.metadata

    def __call__(self, image: np.ndarray) -> dict:
        """Find objects.

        Args:
            image: Blue, green, red, of shape (H, W, 3), uint8.

        Returns:
            ``boxes`` (n, 4), x1, y1, x2, y2 in pixels of the image; ``scores`` (n, ), descending; ``mask_scores``
            (n, ), which rank the masks; ``labels`` (n, ), indices of the metadata's ``classes``; and ``masks``, COCO's
            compressed run-length encodings.
        """
        images, sizes, scale = self.prepare(image)
        outputs = self.model(images, sizes)
        boxes = outputs['boxes'] / np.float32([*scale, *scale])
        height, width = image.shape[:2]
        inclusive = self.metadata['inclusive_boxes']
        paste = _ringed(outputs['mask_probs'], boxes) if inclusive else (outputs['mask_probs'], boxes)
        masks = [encode_mask(*pair, height, width, self.metadata['mask_thr']) for pair in zip(*paste)]
        return dict(
            boxes=boxes + np.float32([0, 0, 1, 1]) * inclusive,
            scores=outputs['scores'],
            mask_scores=outputs['mask_scores'],
            labels=outputs['labels'],
            masks=masks,
        )

    def prepare(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray, tuple[float, float]]:
        """Resize, normalize and pad an image.

        Args:
            image: Blue, green, red, of shape (H, W, 3), uint8.

        Returns:
            Images (1, 3, H, W) and sizes (1, 2), the model's inputs, and the factors by which width and height grew.
        """
        settings = self.metadata['preprocessing']
        old_height, old_width = image.shape[:2]
        width, height = resized_size(old_width, old_height, settings['resize'])
        if settings['resize']['backend'] == 'pillow':
            image = _resize_like_pillow(image, width, height)
        else:
            image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
        if settings['bgr_to_rgb']:
            image = image[..., ::-1]
        divisor = settings['pad_size_divisor']
        padded = [-(-side // divisor) * divisor for side in (height, width)]
        images = np.full((1, 3, *padded), settings['pad_value'], np.float32)
        normalized = (image.astype(np.float32) - np.float32(settings['mean'])) / np.float32(settings['std'])
        images[0, :, :height, :width] = normalized.transpose(2, 0, 1)
        return images, np.array([[height, width]]), (width / old_width, height / old_height)

    def draw(self, image: np.ndarray, result: dict, score_thr: float = 0.3) -> np.ndarray:
        """Draw the result of a call into a copy of its image, objects that score at least ``score_thr``."""
        picture = image.copy()
        for i in np.flatnonzero(result['scores'] >= score_thr)[::-1]:
            label = int(result['labels'][i])
            colour = self.metadata['palette'][label][::-1]
            mask = decode_mask(result['masks'][i])
            picture[mask] = picture[mask] // 2 + np.uint8(colour) // 2
            outlines = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0]
            cv2.drawContours(picture, outlines, -1, colour, 1)
            x1, y1, x2, y2 = (round(float(side)) for side in result['boxes'][i])
            cv2.rectangle(picture, (x1, y1), (x2, y2), colour, 1)
            text = f'{self.metadata["classes"][label]} {result["scores"][i]:.2f}'
            (width, height), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.4, 1)
            top = max(y1 - height - below, 0)
            cv2.rectangle(picture, (x1, top), (x1 + width, top + height + below), colour, -1)
            cv2.putText(picture, text, (x1, top + height), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (255, 255, 255), 1)
        return picture

    def as_json(self, result: dict) -> list[dict]:
        """The result of a call in COCO's format of results, with ``mask_score`` and the name of the class."""
        return [
            dict(
                bbox=[float(x1), float(y1), float(x2 - x1), float(y2 - y1)],
                score=float(score),
                mask_score=float(mask_score),
                label=int(label),
                name=self.metadata['classes'][label],
                segmentation=mask,
            )
            for (x1, y1, x2, y2), score, mask_score, label, mask in zip(
                *(result[key] for key in ('boxes', 'scores', 'mask_scores', 'labels', 'masks'))
            )
        ]


def resized_size(width: int, height: int, settings: dict) -> tuple[int, int]:
    """Width and height of a resized image; ``settings`` are the metadata's ``preprocessing.resize``."""
    scale = settings['scale']
    if settings['mode'] == 'exact':
        return tuple(scale)
    if settings['mode'] == 'keep_ratio':
        factor = min(max(scale) / max(height, width), min(scale) / min(height, width))
        return int(width * factor + 0.5), int(height * factor + 0.5)
    short, long = sorted((width, height))
    target, limit = sorted(scale)
    if long / short * target > limit:
        target = max(round(limit * short / long), 1)
    sides = {True: target, False: target * long // short}
    return sides[width == short], sides[height == short]


def encode_mask(probs: np.ndarray, box: np.ndarray, height: int, width: int, threshold: float) -> dict:
    """Paste a mask into its image, binarise and encode it.

    Args:
        probs: Mask probabilities of shape (h, w).
        box: x1, y1, x2, y2 in pixels of the image, shape (4, ).
        height: Height of the image.
        width: Width of the image.
        threshold: Lowest probability of a pixel of the mask.

    Returns:
        COCO's compressed run-length encoding: ``size`` and ``counts``, a text.
    """
    x1, y1, x2, y2 = np.float32(box)
    left, columns = _samples(x1, x2, probs.shape[1], width)
    top, rows = _samples(y1, y2, probs.shape[0], height)
    inside = (columns @ probs.T @ rows.T >= threshold).astype(np.int8)
    changes = np.diff(np.pad(inside, ((0, 0), (1, 1))), axis=1)
    column, row = changes.nonzero()
    places = (left + column) * height + top + row
    # Where one column ends in the image's last row and the next begins in its first, the mask goes on.
    joined = np.flatnonzero(places[1:] == places[:-1])
    places = np.delete(places, np.concatenate([joined, joined + 1]))
    counts = np.diff(places, prepend=0, append=height * width)
    return dict(size=[height, width], counts=_compress(counts[:-1] if len(counts) > 1 and not counts[-1] else counts))


def decode_mask(mask: dict) -> np.ndarray:
    """A mask of :func:`encode_mask` as a bitmap (H, W), bool."""
    height, width = mask['size']
    counts, value, shift = [], 0, 0
    for digit in mask['counts'].encode():
        digit -= 48
        value |= (digit & 31) << shift
        shift += 5
        if digit & 32:
            continue
        if digit & 16:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    pixels = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return pixels.reshape(width, height).T


def read_image(path: Path) -> np.ndarray:
    """Read an image file as blue, green, red, of shape (H, W, 3).

    Raises:
        RuntimeInputError: It is missing, damaged or not an image.
    """
    try:
        content = np.fromfile(path, np.uint8)
    except OSError as e:
        raise RuntimeInputError(f'{path} cannot be read ({e.strerror}), check the path') from e
    image = cv2.imdecode(content, cv2.IMREAD_COLOR) if len(content) else None
    if image is None:
        raise RuntimeInputError(f'{path}: is no image, or damaged')
    return image


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('model', help='model.onnx or model.xml, or its folder')
    parser.add_argument('input', help='image file, or folder of images')
    parser.add_argument('--out', default='results', help='folder for the pictures and results.json')
    parser.add_argument('--score-thr', type=float, default=0.3, help='lowest score of what is drawn')
    parser.add_argument('--threads', type=int, default=0, help='threads of the model; default: one per core')
    parser.add_argument('--device', default='CPU', help='CPU, or GPU where the runtime library has it')
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    args = parse_args(arguments)
    source, out = Path(args.input), Path(args.out)
    if not source.exists():
        raise RuntimeInputError(f'{source} does not exist, check the path')
    paths = [source]
    if source.is_dir():
        paths = sorted(path for path in source.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
        if not paths:
            raise RuntimeInputError(f'{source}: holds no images ({", ".join(IMAGE_SUFFIXES)})')
    predictor = Predictor(args.model, args.threads, args.device)
    results = {}
    try:
        out.mkdir(parents=True, exist_ok=True)
        for path in paths:
            image = read_image(path)
            result = predictor(image)
            results[path.name] = predictor.as_json(result)
            # The picture's name keeps the suffix: a.jpg and a.png may lie side by side.
            _, content = cv2.imencode('.png', predictor.draw(image, result, args.score_thr))
            (out / f'{path.name}.png').write_bytes(content.tobytes())
            drawn = int((result['scores'] >= args.score_thr).sum())
            print(f'{path}: {drawn} objects drawn, of {len(result["scores"])} in results.json')
        (out / 'results.json').write_text(json.dumps(results))
    except OSError as e:
        raise RuntimeInputError(f'{out} cannot be written: {e.strerror}') from e


def read_metadata(path: Path, text: str | None, outputs: Sequence[str]) -> dict:
    """Read the metadata of a model.

    Raises:
        RuntimeInputError: There are none, or they are of another version.
    """
    if text is None:
        raise RuntimeInputError(f'{path}: was not exported by mmdet_sag, it has no metadata; make it by export.py')
    try:
        metadata = json.loads(text)
        version = metadata['runtime_version']
    except (ValueError, TypeError, KeyError) as e:
        raise RuntimeInputError(f'{path}: its metadata are damaged; export the model again') from e
    if version != RUNTIME_VERSION:
        raise RuntimeInputError(
            f'{path}: needs version {version} of the runtime, this is {RUNTIME_VERSION}; use the runtime.py beside the '
            'model'
        )
    if set(OUTPUTS) - set(outputs):
        raise RuntimeInputError(f'{path}: lacks the output {sorted(set(OUTPUTS) - set(outputs))[0]}; export it again')
    return metadata


@contextmanager
def _one_line_errors(path: Path, library: str) -> Iterator[None]:
    try:
        yield
    except RuntimeInputError:
        raise
    except ImportError as e:
        raise RuntimeInputError(f'{path} needs {library}: pip install {library}') from e
    # The libraries can fail in every way.
    except Exception as e:
        reason = ' '.join(str(e).split())[:200]
        library = f'{library} {sys.modules[library].__version__}'
        raise RuntimeInputError(
            f'{path}: is damaged, or {library} is too old for it; copy or export it again ({reason})'
        ) from e


def _resize_like_pillow(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """Pillow's bilinear filter: a triangle over all pixels that go into one, rows before columns, in fixed point."""
    return _resize_axis(_resize_axis(image, 1, width), 0, height)


def _resize_axis(image: np.ndarray, axis: int, size: int) -> np.ndarray:
    old_size = image.shape[axis]
    if old_size == size:
        return image
    scale = old_size / size
    support = max(scale, 1.0)
    centres = (np.arange(size) + 0.5) * scale
    first = np.maximum((centres - support + 0.5).astype(np.int64), 0)
    last = np.minimum((centres + support + 0.5).astype(np.int64), old_size)
    taps = np.arange((last - first).max())
    distances = (first[:, None] + taps - centres[:, None] + 0.5) * (1 / support)
    weights = np.maximum(1 - np.abs(distances), 0) * (taps < (last - first)[:, None])
    weights /= weights.sum(axis=1, keepdims=True)
    weights = np.floor(weights * (1 << 22) + 0.5).astype(np.int32)
    shape = [1, 1, 1]
    shape[axis] = size
    total = np.int32(1 << 21)
    for tap in taps:
        pixels = np.take(image, np.minimum(first + tap, old_size - 1), axis=axis)
        total = total + pixels * weights[:, tap].reshape(shape)
    return np.clip(total >> 22, 0, 255).astype(np.uint8)


def _ringed(probs: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Masks with a border of zeros, and boxes of whole pixels that grew with them, as CenterMask's first version."""
    height, width = probs.shape[1:]
    half = (boxes[:, 2:] - boxes[:, :2]) * np.float32(0.5) * np.float32([(width + 2) / width, (height + 2) / height])
    centre = (boxes[:, 2:] + boxes[:, :2]) * np.float32(0.5)
    boxes = np.concatenate([np.trunc(centre - half), np.trunc(centre + half) + 1], axis=1)
    return np.pad(probs, ((0, 0), (1, 1), (1, 1))), boxes


def _samples(low: np.float32, high: np.float32, size: int, length: int) -> tuple[int, np.ndarray]:
    """First pixel that a mask may reach, and the weights of its samples in each pixel, shape (pixels, size)."""
    first, last = max(int(np.floor(low)) - 1, 0), min(int(np.ceil(high)) + 1, length)
    pixels = np.arange(first, max(last, first), dtype=np.float32)
    weights = np.zeros((len(pixels), size), np.float32)
    with np.errstate(divide='ignore', invalid='ignore'):
        grid = (pixels + np.float32(0.5) - low) / (high - low) * 2 - 1
    # As MMDetection does where a box has no extent.
    grid[np.isinf(grid)] = 0
    place = ((grid + 1) * size - 1) / 2
    before = np.floor(place)
    for sample, share in ((before, 1 - (place - before)), (before + 1, place - before)):
        known = np.flatnonzero((sample >= 0) & (sample < size))
        weights[known, sample[known].astype(np.int64)] = share[known]
    return first, weights


def _compress(counts: np.ndarray) -> str:
    """COCO's text of run lengths: differences to the last but one from the fourth on, in digits of five bits."""
    values = counts.astype(np.int64)
    values[3:] -= counts[1:-2]
    text = bytearray()
    for value in values.tolist():
        more = True
        while more:
            digit = value & 31
            value >>= 5
            more = value != (-1 if digit & 16 else 0)
            text.append(digit + 32 * more + 48)
    return text.decode()


def run(arguments: list[str] | None = None) -> int:
    """Run the command line; a :class:`RuntimeInputError` is one line and exit status 2."""
    try:
        main(arguments)
    except RuntimeInputError as e:
        print(f'error: {e}', file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(run())
