"""Run a model that mmdet_sag exported on an image or a folder of images.

This file stands alone: it needs NumPy, OpenCV, and onnxruntime for a model.onnx, openvino for a model.xml, or torch and
torchvision for a model.pt. Programs import :class:`Predictor` or :class:`SegmentationPredictor` from it.
"""

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from queue import Empty, SimpleQueue

import cv2
import numpy as np

# A model's metadata say which version of this file it needs.
RUNTIME_VERSION = 3
METADATA_KEY = 'mmdet_sag'
REPORT = 'report.json'
OUTPUTS = ('boxes', 'scores', 'labels', 'image_indices', 'mask_probs', 'mask_scores')
# Of a model whose metadata have a number of `detections`: those of each image are padded to that number.
PADDED_OUTPUTS = ('num_detections', 'boxes', 'scores', 'labels', 'mask_probs', 'mask_scores')
IMAGE_SUFFIXES = ('.bmp', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp')
# OpenVINO's devices that stand for others.
_VIRTUAL_DEVICES = ('AUTO', 'BATCH', 'HETERO', 'MULTI')


class RuntimeInputError(ValueError):
    """An input cannot be used; the message is one line that names it and the remedy."""


class Model:
    """An exported model: its ``path`` and ``metadata``. Several threads may call it. See :func:`load_model`."""

    path: Path
    metadata: dict
    # Least height and width of its images.
    least_size = (1, 1)

    def __call__(self, images: np.ndarray, image_sizes: np.ndarray | None = None) -> dict:
        """Detect objects; :class:`Predictor` prepares images for it.

        Args:
            images: Normalized images of shape (N, 3, H, W), float32. They are padded to the size that a model of one
                size takes. For a model that prepares them itself: blue, green, red, (N, H, W, 3), uint8.
            image_sizes: Height and width of each without padding, shape (N, 2), int64. Such a model needs none.

        Returns:
            The model's outputs by name: ``boxes`` (n, 4) in pixels of these images, ``scores`` (n, ),
            ``labels`` (n, ), ``image_indices`` (n, ), ``mask_probs`` (n, h, w) and ``mask_scores`` (n, ). Of a
            segmentor, ``semantic_logits`` (N, C, H, W).

        Raises:
            RuntimeInputError: The images are larger than that size.
        """
        if image_sizes is None:
            return self._by_detection(self._run(images=np.ascontiguousarray(images)))
        size = self.metadata.get('input_size')
        missing = [least - side for least, side in zip(size or self.least_size, images.shape[2:])]
        if size and min(missing) < 0:
            raise RuntimeInputError(
                f'images of {images.shape[2]}x{images.shape[3]} pixels do not fit into {size[0]}x{size[1]}, the input '
                'of this model: resize them to it, or export it with another --input-size'
            )
        if max(missing) > 0:
            pad_value = self.metadata['preprocessing']['pad_value']
            pads = (0, 0), (0, 0), *((0, max(side, 0)) for side in missing)
            images = np.pad(images, pads, constant_values=pad_value)
        return self._by_detection(self._run(images=images, image_sizes=image_sizes))

    def _by_detection(self, outputs: dict) -> dict:
        """The outputs of a model, without what it was padded with."""
        if self.metadata.get('detections'):
            counts = outputs.pop('num_detections')
            image, rank = (np.arange(self.metadata['detections']) < counts[:, None]).nonzero()
            outputs = {name: values[image, rank] for name, values in outputs.items()}
            outputs['image_indices'] = image
        return outputs

    def _run(self, **inputs: np.ndarray) -> dict:
        raise NotImplementedError


class OnnxModel(Model):
    """A model.onnx in onnxruntime, on the device ``CPU``, or ``GPU`` with onnxruntime-gpu."""

    def __init__(self, path: Path, num_threads: int = 0, device: str = 'CPU') -> None:
        with _one_line_errors(path, 'onnxruntime'):
            import onnxruntime

            providers = dict(CPU='CPUExecutionProvider', GPU='CUDAExecutionProvider', CUDA='CUDAExecutionProvider')
            provider = providers.get(device.upper(), device)
            if provider not in onnxruntime.get_available_providers():
                raise RuntimeInputError(f'device {device}: this onnxruntime has no {provider}')
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = num_threads
            # Its warnings are about the graph, which the user did not write.
            options.log_severity_level = 3
            self.session = onnxruntime.InferenceSession(str(path), options, providers=[provider])
        # Without the libraries of a provider, onnxruntime takes the CPU and only logs it.
        if provider not in self.session.get_providers():
            raise RuntimeInputError(f'device {device}: onnxruntime cannot load {provider}, install its libraries')
        texts = self.session.get_modelmeta().custom_metadata_map
        self.names = [output.name for output in self.session.get_outputs()]
        self.metadata = read_metadata(path, texts.get(METADATA_KEY), self.names)

    def _run(self, **inputs: np.ndarray) -> dict:
        return dict(zip(self.names, self.session.run(self.names, inputs)))


@cache
def _core():
    """OpenVINO's core, one for the process.

    It gives its thread a stack for signals. If there were two, the last to go would bring back that of the other, which
    is gone, and the next signal would end the process.
    """
    import openvino

    return openvino.Core()


class OpenVINOModel(Model):
    """A model.xml, and the model.bin beside it, in OpenVINO, on any of its devices."""

    # Its pooling kernels need it.
    least_size = (64, 64)

    def __init__(self, path: Path, num_threads: int = 0, device: str = 'CPU') -> None:
        device = device.upper()
        with _one_line_errors(path, 'openvino'):
            if not path.with_suffix('.bin').is_file():
                raise RuntimeInputError(f'{path.with_suffix(".bin")} is missing: it holds the weights of {path.name}')
            core = _core()
            known = [*core.available_devices, *_VIRTUAL_DEVICES]
            # Where there are several of a kind, its name stands for the first.
            if device.partition(':')[0] not in [*known, *(name.partition('.')[0] for name in known)]:
                raise RuntimeInputError(f'device {device}: OpenVINO finds {", ".join(core.available_devices)} here')
            model = core.read_model(str(path))
            text = model.get_rt_info([METADATA_KEY]).astype(str) if model.has_rt_info([METADATA_KEY]) else None
            self.names = [name for output in model.outputs for name in output.get_names()]
            self.metadata = read_metadata(path, text, self.names)
            if 'semantic' in self.metadata:
                self.least_size = (1, 1)
            config = dict(PERFORMANCE_HINT='LATENCY', INFERENCE_PRECISION_HINT='f32')
            # Of int8, the layers that stayed in float.
            half = dict(bf16='bf16', fp16='fp16', int8='bf16').get(self.metadata['precision'])
            # Without the instructions for it, half precision would be computed in float32 anyway.
            if half and half.upper() in core.get_property(device, 'OPTIMIZATION_CAPABILITIES'):
                config['INFERENCE_PRECISION_HINT'] = half.replace('fp', 'f')
            # The core has the number of the model before; 0 is OpenVINO's own choice.
            core.set_property('CPU', dict(INFERENCE_NUM_THREADS=num_threads))
            self.model = core.compile_model(model, device, config)
        # A request computes one call at a time, so each thread takes one, and there are as many as threads.
        self.requests = SimpleQueue()

    def _run(self, **inputs: np.ndarray) -> dict:
        try:
            request = self.requests.get_nowait()
        except Empty:
            request = self.model.create_infer_request()
        results = request.infer(inputs, share_inputs=True)
        outputs = {name: results[name] for name in self.names}
        self.requests.put(request)
        return outputs


class TorchScriptModel(Model):
    """A model.pt in PyTorch, on one of its devices. The number of threads is that of the whole process."""

    def __init__(self, path: Path, num_threads: int = 0, device: str = 'CPU') -> None:
        name = f'{METADATA_KEY}.json'
        files = {name: ''}
        with _one_line_errors(path, 'torch'):
            import torch

            # The model calls its operators.
            import torchvision  # noqa: F401

            self.device = {'GPU': 'cuda'}.get(device.upper(), device.lower())
            if self.device.startswith('cuda') and not torch.cuda.is_available():
                raise RuntimeInputError(f'device {device}: this PyTorch finds no CUDA device')
            self.module = torch.jit.load(str(path), map_location=self.device, _extra_files=files).eval()
        if num_threads:
            torch.set_num_threads(num_threads)
        self.metadata = read_metadata(path, files[name] or None)

    def _run(self, **inputs: np.ndarray) -> dict:
        import torch

        with torch.inference_mode():
            outputs = self.module(
                *(torch.from_numpy(inputs[name]).to(self.device) for name in input_names(self.metadata))
            )
        return dict(zip(output_names(self.metadata), (output.cpu().numpy() for output in outputs)))


LOADERS = {'.onnx': OnnxModel, '.xml': OpenVINOModel, '.pt': TorchScriptModel}


def load_model(path: str | Path, num_threads: int = 0, device: str = 'CPU') -> Model:
    """Load an exported model, a file or its folder. Arguments are those of :class:`Predictor`.

    Raises:
        RuntimeInputError: There is no model or device, its library is missing, or it is damaged or of another version.
    """
    path = Path(path)
    if path.is_dir():
        found = [file for file in (path / f'model{suffix}' for suffix in LOADERS) if file.is_file()]
        if not found:
            raise RuntimeInputError(f'{path}: holds neither model.onnx nor model.xml nor model.pt')
        path = found[0]
    if path.suffix not in LOADERS:
        raise RuntimeInputError(f'{path}: is neither .onnx nor .xml nor .pt, which this runtime can read')
    if not path.is_file():
        raise RuntimeInputError(f'{path} does not exist, check the path')
    _check_sums(path)
    model = LOADERS[path.suffix](path, num_threads, device)
    model.path = path
    return model


class Predictor:
    """Finds objects and their masks in images, also when called from several threads at once.

    Args:
        model: A model.onnx, model.xml or model.pt, or the folder of one, or a model that is loaded.
        num_threads: Number of threads; 0: one per core.
        device: Device that it runs on: ``CPU``, ``GPU``, or another name that its library knows.
        score_thr: Lowest score of a result.
        classes: Names of the classes of the results; by default all.

    Raises:
        RuntimeInputError: As :func:`load_model`, or the model lacks one of the classes, or is a segmentor.
    """

    def __init__(
        self,
        model: str | Path | Model,
        num_threads: int = 0,
        device: str = 'CPU',
        score_thr: float = 0.0,
        classes: Sequence[str] | None = None,
    ) -> None:
        self.model = model if isinstance(model, Model) else load_model(model, num_threads, device)
        self.metadata = self.model.metadata
        self.score_thr = score_thr
        is_segmentor = 'semantic' in self.metadata
        if is_segmentor != isinstance(self, SegmentationPredictor):
            right = 'a segmentor: use SegmentationPredictor' if is_segmentor else 'no segmentor: use Predictor'
            raise RuntimeInputError(f'{self.model.path}: is {right}')
        known = self.metadata['classes']
        for name in classes or ():
            if name not in known:
                raise RuntimeInputError(f'{self.model.path}: has no class {name!r}, but {", ".join(known)}')
        self.labels = [label for label, name in enumerate(known) if classes is None or name in classes]

    @property
    def picture_score_thr(self) -> float:
        """Lowest score in pictures: the best of the report on the model, if there was one at the export, or 0.5."""
        return self.metadata.get('picture_score_thr', 0.5)

    def __call__(self, images: np.ndarray | str | Path | Sequence) -> dict | list[dict]:
        """Find objects.

        Args:
            images: Blue, green, red, of shape (H, W, 3), uint8; also (H, W) and (H, W, 1), which are grey, (H, W, 4),
                whose alpha is ignored, and the path of an image file. A list of images is one batch; those that are
                smaller are padded, which changes what is found near the padding.

        Returns:
            ``boxes`` (n, 4), x1, y1, x2, y2 in pixels of the image; ``scores`` (n, ), descending; ``mask_scores``
            (n, ), which rank the masks; ``labels`` (n, ), indices of the metadata's ``classes``; and ``masks``, COCO's
            compressed run-length encodings. Of a panoptic model, also ``panoptic`` (H, W), int32: label + 1000 x
            number of the instance, from 1, or 0 for stuff; and the number of classes where there is nothing. A list of
            these for a list of images.

        Raises:
            RuntimeInputError: An image cannot be used.
        """
        if not isinstance(images, (list, tuple)):
            return self([images])[0]
        if not images:
            return []
        images = [as_image(image) for image in images]
        if 'image_sizes' in input_names(self.metadata):
            inputs, sizes = self.prepare(images)
            outputs = self.model(inputs, sizes)
            found = [(outputs, i, size) for i, size in enumerate(sizes)]
        else:
            for image in images:
                self.input_size(image)
            # They have different sizes.
            found = [(self.model(image[None]), 0, image.shape) for image in images]
        return [
            self.finish(self._of_image(outputs, i), image.shape, size)
            for image, (outputs, i, size) in zip(images, found)
        ]

    def _of_image(self, outputs: dict, i: int) -> dict:
        """Outputs of the wanted detections in an image."""
        wanted = outputs['image_indices'] == i
        wanted &= np.isin(outputs['labels'], self.labels) & (outputs['scores'] >= self.score_thr)
        own = {name: values[wanted] for name, values in outputs.items() if name in OUTPUTS and name != 'image_indices'}
        if 'semantic_logits' in outputs:
            own['semantic_logits'] = outputs['semantic_logits'][i]
        return own

    def prepare(self, images: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Resize, normalize and pad images, blue, green, red, of shape (H, W, 3), uint8.

        Returns:
            Images (N, 3, H, W) and their heights and widths without padding (N, 2), the model's inputs.
        """
        settings = self.metadata['preprocessing']
        sizes = [self.input_size(image) for image in images]
        divisor = settings['pad_size_divisor']
        padded = [-(-max(sides) // divisor) * divisor for sides in zip(*sizes)]
        inputs = np.full((len(images), 3, *padded), settings['pad_value'], np.float32)
        for place, image, (height, width) in zip(inputs, images, sizes):
            if settings['resize']['backend'] == 'pillow':
                image = _resize_like_pillow(image, width, height)
            else:
                image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
            if settings['bgr_to_rgb']:
                image = image[..., ::-1]
            normalized = (image.astype(np.float32) - np.float32(settings['mean'])) / np.float32(settings['std'])
            place[:, :height, :width] = normalized.transpose(2, 0, 1)
        return inputs, np.array(sizes)

    def input_size(self, image: np.ndarray) -> tuple[int, int]:
        """Height and width of an image as the network sees it, without padding."""
        height, width = image.shape[:2]
        new_width, new_height = resized_size(width, height, self.metadata['preprocessing']['resize'])
        if not new_width or not new_height:
            raise RuntimeInputError(
                f'an image of {width}x{height} pixels is too narrow: resized to {new_width}x{new_height}, nothing is '
                'left of it; cut it into parts'
            )
        return new_height, new_width

    def finish(self, outputs: dict, shape: Sequence[int], size: Sequence[int]) -> dict:
        """Result, as of :meth:`__call__`, of an image.

        Args:
            outputs: The model's outputs that belong to the image, without ``image_indices``.
            shape: Height and width of the image.
            size: Height and width of it where the boxes lie, as the network saw it.
        """
        height, width = shape[:2]
        scale = size[1] / width, size[0] / height
        boxes = outputs['boxes'] / np.float32([*scale, *scale])
        inclusive = self.metadata['inclusive_boxes']
        paste = _ringed(outputs['mask_probs'], boxes) if inclusive else (outputs['mask_probs'], boxes)
        masks = [encode_mask(*pair, height, width, self.metadata['mask_thr']) for pair in zip(*paste)]
        result = dict(
            boxes=boxes + np.float32([0, 0, 1, 1]) * inclusive,
            scores=outputs['scores'],
            mask_scores=outputs['mask_scores'],
            labels=outputs['labels'],
            masks=masks,
        )
        if 'semantic_logits' in outputs:
            result['panoptic'] = merge_panoptic(outputs['semantic_logits'], result, shape, size, self.metadata)
        return result

    def draw(self, image: np.ndarray, result: dict, score_thr: float | None = None) -> np.ndarray:
        """Draw the result of a call into a copy of its image, objects that score at least ``score_thr``.

        The default is :attr:`picture_score_thr`. Small images are enlarged, so that names fit.
        """
        if score_thr is None:
            score_thr = self.picture_score_thr
        picture, zoom = _enlarged(as_image(image))
        if 'panoptic' in result:
            _paint(picture, result['panoptic'], self.metadata, self.metadata['panoptic']['num_things'])
        shown = np.flatnonzero(result['scores'] >= score_thr)
        colours = [self.metadata['palette'][label][::-1] for label in result['labels']]
        for i in shown[::-1]:
            left, top, mask = _decode_cropped(result['masks'][i])
            # Without a pixel, OpenCV fails.
            if mask.size:
                mask = cv2.resize(mask, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_NEAREST)
                left, top = zoom * left, zoom * top
                part = picture[top : top + mask.shape[0], left : left + mask.shape[1]]
                cv2.add(part >> 1, tuple(side // 2 for side in (*colours[i], 0)), dst=part, mask=mask)
                outlines = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0]
                cv2.drawContours(picture, outlines, -1, colours[i], 1, offset=(left, top))
            else:
                x1, y1, x2, y2 = (round(zoom * float(side)) for side in result['boxes'][i])
                cv2.rectangle(picture, (x1, y1), (x2, y2), colours[i], 1)
        taken: list[tuple[int, int, int]] = []
        # Names over all masks, and below those of higher scores that are in their way.
        for i in shown:
            x, y = (round(zoom * float(side)) for side in result['boxes'][i][:2])
            text = f'{self.metadata["classes"][result["labels"][i]]} {result["scores"][i]:.2f}'
            (width, height), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.4, 1)
            x, y = max(min(x, picture.shape[1] - width), 0), max(y - height - below, 0)
            while any(a < x + width and x < b and abs(y - top) <= height + below for a, b, top in taken):
                y += height
            taken.append((x, x + width, y))
            cv2.rectangle(picture, (x, y), (x + width, y + height + below), colours[i], -1)
            cv2.putText(picture, text, (x, y + height), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (255, 255, 255), 1)
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

    def segments(self, result: dict) -> dict[str, np.ndarray]:
        """Pictures of a result's pixels by name, as PNG files hold them: ``panoptic``, if the model gives it."""
        if 'panoptic' not in result:
            return {}
        ids = np.where(result['panoptic'] % 1000 < len(self.metadata['classes']), result['panoptic'], 0)
        return dict(panoptic=np.stack([ids >> 16, ids >> 8, ids], axis=2).astype(np.uint8))

    def describe(self, result: dict, score_thr: float) -> str:
        """A line on a result whose picture shows objects that score at least ``score_thr``."""
        drawn = int((result['scores'] >= score_thr).sum())
        return f'{drawn} objects drawn, of {len(result["scores"])} in results.json'


class SegmentationPredictor(Predictor):
    """Gives each pixel of images a class, by a segmentor; otherwise as :class:`Predictor`.

    A result has ``semantic`` (H, W), int32, the label of each pixel, alone. There are no
    scores, and no arguments ``score_thr`` and ``classes``.

    Raises:
        RuntimeInputError: As :func:`load_model`, or the model is a detector.
    """

    def __init__(self, model: str | Path | Model, num_threads: int = 0, device: str = 'CPU') -> None:
        super().__init__(model, num_threads, device)

    def _of_image(self, outputs: dict, i: int) -> dict:
        return dict(semantic_logits=outputs['semantic_logits'][i])

    def finish(self, outputs: dict, shape: Sequence[int], size: Sequence[int]) -> dict:
        """See :class:`Predictor`."""
        return dict(semantic=label_pixels(outputs['semantic_logits'], shape, size, self.metadata['semantic']))

    def draw(self, image: np.ndarray, result: dict, score_thr: float | None = None) -> np.ndarray:
        """Draw the result of a call into a copy of its image. Small images are enlarged."""
        picture, _ = _enlarged(as_image(image))
        _paint(picture, result['semantic'], self.metadata)
        return picture

    def as_json(self, result: dict) -> list[dict]:
        """``label``, ``name`` and ``segmentation`` of each class in the image."""
        labels = result['semantic']
        return [
            dict(label=int(label), name=self.metadata['classes'][label], segmentation=encode_bitmap(labels == label))
            for label in np.unique(labels)
        ]

    def segments(self, result: dict) -> dict[str, np.ndarray]:
        """``semantic``, the labels themselves."""
        return dict(semantic=result['semantic'].astype(np.uint8 if len(self.metadata['classes']) < 257 else np.uint16))

    def describe(self, result: dict, score_thr: float) -> str:
        """The shares of the classes in the image."""
        labels, counts = np.unique(result['semantic'], return_counts=True)
        names = (self.metadata['classes'][label] for label in labels)
        return ', '.join(f'{name} {share:.1%}' for name, share in zip(names, counts / counts.sum()))


def load_predictor(
    path: str | Path,
    num_threads: int = 0,
    device: str = 'CPU',
    score_thr: float = 0.0,
    classes: Sequence[str] | None = None,
) -> Predictor:
    """Load an exported model with the class that runs it. Arguments are those of :class:`Predictor`.

    Raises:
        RuntimeInputError: As :class:`Predictor`, or ``score_thr`` or ``classes`` are given for a segmentor.
    """
    model = load_model(path, num_threads, device)
    if 'semantic' in model.metadata:
        if score_thr or classes:
            option = 'a lowest score' if score_thr else 'some classes alone'
            raise RuntimeInputError(f'{path}: a segmentor gives every pixel a class and no score, leave {option} out')
        return SegmentationPredictor(model)
    return Predictor(model, score_thr=score_thr, classes=classes)


def resized_size(width: int, height: int, settings: dict) -> tuple[int, int]:
    """Width and height of a resized image; ``settings`` are the metadata's ``preprocessing.resize``."""
    scale = settings.get('scale') or [
        int(side * factor + 0.5) for side, factor in zip((width, height), settings['scale_factor'])
    ]
    if settings['mode'] == 'exact':
        return tuple(scale)
    if settings['mode'] == 'fit':
        factor = min(scale[0] / width, scale[1] / height)
        return int(width * factor + 0.5), int(height * factor + 0.5)
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
    """Paste a mask (h, w) into its image at a box (4, ), binarise it and encode it as COCO's compressed run lengths."""
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
    return _run_lengths(places, height, width)


def encode_bitmap(bitmap: np.ndarray) -> dict:
    """Encode a mask of a whole image (H, W), bool, as :func:`encode_mask`."""
    return _run_lengths(np.flatnonzero(np.diff(bitmap.T.ravel(), prepend=False)), *bitmap.shape)


def label_pixels(logits: np.ndarray, shape: Sequence[int], size: Sequence[int], settings: dict) -> np.ndarray:
    """Give each pixel a class, as MMSegmentation does; ``settings`` are the metadata's ``semantic``.

    The logits (C, H, W) have the padding of the image of height and width ``shape``, which the network saw in ``size``.
    """
    best, labels = np.full(shape[:2], -np.inf, np.float32), np.zeros(shape[:2], np.int32)
    # One class at a time: all together would take a gigabyte in a large image.
    for label, own in enumerate(logits):
        own = _resize_bilinear(own[: size[0], : size[1]], shape[:2], settings['align_corners'])
        if len(logits) == 1:
            with np.errstate(over='ignore'):
                return (1 / (1 + np.exp(-own)) > settings['threshold']).astype(np.int32)
        labels[own > best] = label
        np.maximum(best, own, out=best)
    return labels


def merge_panoptic(
    logits: np.ndarray, result: dict, shape: Sequence[int], size: Sequence[int], metadata: dict
) -> np.ndarray:
    """Merge instances and semantic segmentation, as CenterMaskFusionHead does, to ``panoptic`` of a result.

    The logits (C, h, w) have the padding of the image of height and width ``shape``, which the network saw in ``size``.
    ``result`` has ``masks``, ``scores`` and ``labels`` of its instances.
    """
    settings, num_classes = metadata['panoptic'], len(metadata['classes'])
    best, stuff = np.full(shape[:2], -np.inf, np.float32), np.zeros(shape[:2], np.int32)
    # One class at a time: all together would take a gigabyte in a large image.
    for label, own in enumerate(logits, start=settings['num_things']):
        own = cv2.resize(own, None, fx=settings['stride'], fy=settings['stride'])[: size[0], : size[1]]
        own = cv2.resize(own, shape[1::-1])
        stuff[own > best] = label
        np.maximum(best, own, out=best)
    merged, count = np.zeros_like(stuff), 0
    for i in np.argsort(-result['scores'], kind='stable'):
        if result['scores'][i] < settings['score_thr']:
            break
        left, top, mask = _decode_cropped(result['masks'][i])
        part = merged[top : top + mask.shape[0], left : left + mask.shape[1]]
        seen = mask.astype(bool) & (part == 0)
        area, visible = int(mask.sum()), int(seen.sum())
        if visible and area - visible <= settings['mask_overlap'] * area:
            count += 1
            part[seen] = result['labels'][i] + 1000 * count
    merged = np.where(merged > 0, merged, stuff)
    small = np.bincount(merged.ravel() % 1000, minlength=num_classes + 1) < settings['stuff_area_limit']
    small[: settings['num_things']] = False
    merged[small[merged % 1000]] = num_classes
    return merged


def decode_mask(mask: dict) -> np.ndarray:
    """A mask of :func:`encode_mask` as a bitmap (H, W), bool."""
    height, width = mask['size']
    return np.repeat(*_runs(mask['counts'])).reshape(width, height).T


def as_image(image: np.ndarray | str | Path) -> np.ndarray:
    """An image of :class:`Predictor` as blue, green, red, of shape (H, W, 3), uint8."""
    if isinstance(image, (str, Path)):
        return read_image(Path(image))
    image = np.asarray(image)
    channels = image.shape[2] if image.ndim == 3 else 1
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or channels not in (1, 3, 4) or not image.size:
        raise RuntimeInputError(
            f'an array of shape {image.shape} and type {image.dtype} is no image: give uint8, 0 to 255, of shape '
            '(height, width, 3), blue, green, red'
        )
    return image[..., :3] if channels > 1 else np.repeat(image.reshape(*image.shape[:2], 1), 3, axis=2)


def read_image(path: Path) -> np.ndarray:
    """Read an image file as blue, green, red, of shape (H, W, 3)."""
    try:
        content = np.fromfile(path, np.uint8)
    except OSError as e:
        raise RuntimeInputError(f'{path} cannot be read ({e.strerror}), check the path') from e
    try:
        return decode_image(content)
    except RuntimeInputError as e:
        raise RuntimeInputError(f'{path}: {e}') from e


def decode_image(content: bytes | np.ndarray) -> np.ndarray:
    """Decode the content of an image file as blue, green, red, of shape (H, W, 3), turned as its EXIF entry says."""
    content = np.frombuffer(content, np.uint8)
    try:
        image = cv2.imdecode(content, cv2.IMREAD_COLOR) if len(content) else None
    except cv2.error as e:
        raise RuntimeInputError(f'is too large for OpenCV ({" ".join(str(e).split())})') from e
    if image is None:
        raise RuntimeInputError('is no image, or damaged')
    return image


def _enlarged(image: np.ndarray) -> tuple[np.ndarray, int]:
    """A copy of an image, small ones several times as large, and how many times."""
    height, width = image.shape[:2]
    zoom = max(min(-(-480 // min(height, width)), 1600 // max(height, width), 8), 1)
    return cv2.resize(image, (zoom * width, zoom * height), interpolation=cv2.INTER_CUBIC), zoom


def _paint(picture: np.ndarray, segments: np.ndarray, metadata: dict, first: int = 0) -> None:
    """Colour the pixels of a picture by their classes, from the class ``first`` on."""
    segments = cv2.resize(segments, picture.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    for label, name in enumerate(metadata['classes'][first:], first):
        if name != 'background':
            colour = np.uint8(metadata['palette'][label][::-1])
            picture[segments == label] = (picture[segments == label] >> 1) + (colour >> 1)


def _write_png(path: Path, image: np.ndarray) -> None:
    _, content = cv2.imencode('.png', image)
    path.write_bytes(content.tobytes())


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('model', help='model.onnx, model.xml or model.pt, or its folder')
    parser.add_argument('input', help='image file, or folder of images and of such folders')
    parser.add_argument('--out', default='results', help='folder for the pictures and results.json')
    parser.add_argument('--score-thr', type=float, help="lowest score of what is drawn; default: the model's")
    parser.add_argument('--result-score-thr', type=float, default=0.0, help='lowest score in results.json')
    parser.add_argument('--classes', nargs='+', metavar='CLASS', help='names of the classes to find; default: all')
    parser.add_argument('--batch-size', type=int, default=1, help='images that the model gets at once')
    parser.add_argument('--threads', type=int, default=0, help='threads of the model; default: one per core')
    parser.add_argument('--device', default='CPU', help='CPU, GPU, or another name that the runtime library knows')
    args = parser.parse_args(arguments)
    if args.batch_size < 1:
        parser.error(f'--batch-size {args.batch_size}: at least 1 is needed')
    if args.threads < 0:
        parser.error(f'--threads {args.threads}: give their number, or 0 for one per core')
    return args


def find_images(source: Path, out: Path) -> list[Path]:
    """Image files of a folder and of the folders in it, except ``out``; or ``source``, if it is a file."""
    if not source.exists():
        raise RuntimeInputError(f'{source} does not exist, check the path')
    if not source.is_dir():
        return [source]
    paths = sorted(path for path in source.rglob('*') if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
    if source.resolve() in out.resolve().parents:
        paths = [path for path in paths if out.resolve() not in path.resolve().parents]
    if not paths:
        raise RuntimeInputError(f'{source}: holds no images ({", ".join(IMAGE_SUFFIXES)})')
    return paths


def main(arguments: list[str] | None = None) -> int:
    """Run on images. The status is 1 if some of several images could not be read."""
    args = parse_args(arguments)
    source, out = Path(args.input), Path(args.out)
    paths = find_images(source, out)
    predictor = load_predictor(args.model, args.threads, args.device, args.result_score_thr, args.classes)
    if isinstance(predictor, SegmentationPredictor) and args.score_thr is not None:
        raise RuntimeInputError(
            f'--score-thr {args.score_thr}: {args.model} is a segmentor, without scores: leave it out'
        )
    score_thr = predictor.picture_score_thr if args.score_thr is None else args.score_thr
    results, left_out = {}, []
    try:
        out.mkdir(parents=True, exist_ok=True)
        with ExitStack() as at_end:
            # Of the images up to there also after Ctrl-C.
            at_end.callback(_write_results, results, out)
            for start in range(0, len(paths), args.batch_size):
                batch = {}
                for path in paths[start : start + args.batch_size]:
                    try:
                        image = read_image(path)
                        predictor.input_size(image)
                        batch[path] = image
                    except RuntimeInputError as e:
                        left_out.append(str(e) if str(path) in str(e) else f'{path}: {e}')
                for (path, image), result in zip(batch.items(), predictor(list(batch.values()))):
                    name = path.relative_to(source if source.is_dir() else path.parent).as_posix()
                    results[name] = predictor.as_json(result)
                    # The picture's name keeps the suffix: a.jpg and a.png may lie side by side.
                    picture = out / f'{name}.png'
                    picture.parent.mkdir(parents=True, exist_ok=True)
                    _write_png(picture, predictor.draw(image, result, score_thr))
                    for kind, pixels in predictor.segments(result).items():
                        _write_png(out / f'{name}.{kind}.png', pixels)
                    print(f'{path}: {predictor.describe(result, score_thr)}')
        if not results:
            more = f' (and {len(left_out) - 1} more images)' if len(left_out) > 1 else ''
            raise RuntimeInputError(left_out[0] + more)
    except OSError as e:
        raise RuntimeInputError(f'{out} cannot be written: {e.strerror}') from e
    for line in left_out:
        print(f'left out: {line}', file=sys.stderr)
    if left_out:
        print(f'{len(left_out)} of {len(paths)} images were left out', file=sys.stderr)
    return int(bool(left_out))


def _write_results(results: dict, out: Path) -> None:
    if results:
        (out / 'results.json.partial').write_text(json.dumps(results))
        os.replace(out / 'results.json.partial', out / 'results.json')


def input_names(metadata: dict) -> tuple[str, ...]:
    """Names of a model's inputs in order."""
    return ('images',) if metadata.get('preprocessing', {}).get('in_graph') else ('images', 'image_sizes')


def output_names(metadata: dict) -> tuple[str, ...]:
    """Names of a model's outputs in order."""
    if 'semantic' in metadata:
        return ('semantic_logits',)
    names = PADDED_OUTPUTS if metadata.get('detections') else OUTPUTS
    return (*names, 'semantic_logits') if metadata.get('panoptic') else names


def read_metadata(path: Path, text: str | None, outputs: Sequence[str] | None = None) -> dict:
    """Read the metadata of a model, and check the names of its outputs, if there are any."""
    if text is None:
        raise RuntimeInputError(f'{path}: was not exported by mmdet_sag, it has no metadata; make it by export.py')
    try:
        metadata = json.loads(text)
        version = metadata['runtime_version']
    except (ValueError, TypeError, KeyError) as e:
        raise RuntimeInputError(f'{path}: its metadata are damaged; export the model again') from e
    if version not in range(1, RUNTIME_VERSION + 1):
        raise RuntimeInputError(
            f'{path}: needs version {version} of the runtime, this is {RUNTIME_VERSION}; use the runtime.py beside the '
            'model'
        )
    missing = set() if outputs is None else set(output_names(metadata)) - set(outputs)
    if missing:
        raise RuntimeInputError(f'{path}: lacks the output {min(missing)}; export it again')
    return metadata


def _check_sums(path: Path) -> None:
    """Compare a model with the checksums in the report of its export, where that lies beside it."""
    try:
        sums = dict(json.loads(path.with_name(REPORT).read_text())['files'])
    except (OSError, ValueError, TypeError, KeyError):
        return
    for file in (path, path.with_suffix('.bin')):
        if file.is_file() and sums.get(file.name) not in (None, hashlib.sha256(file.read_bytes()).hexdigest()):
            raise RuntimeInputError(f'{file}: is damaged, it is not the file of {REPORT}; copy or export it again')


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
        if 'DeformConv' in reason and library == 'onnxruntime':
            reason = 'deformable convolutions on a CPU need onnxruntime 1.25'
        library = f'{library} {sys.modules[library].__version__}'
        raise RuntimeInputError(
            f'{path}: is damaged, or {library} is too old for it; copy or export it again ({reason})'
        ) from e


def _resize_like_pillow(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """Pillow's bilinear filter: a triangle over all pixels that go into one, rows before columns, in fixed point."""
    return _resize_rows(cv2.transpose(_resize_rows(cv2.transpose(image), width)), height)


def _resize_rows(image: np.ndarray, size: int) -> np.ndarray:
    """Change the number of rows; row by row, since the sums then stay in the processor's cache."""
    old_size = len(image)
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
    rows = image.reshape(old_size, -1)
    resized = np.empty((size, rows.shape[1]), np.uint8)
    total, product = np.empty((2, rows.shape[1]), np.int32)
    for i in range(size):
        total[:] = 1 << 21
        for row, weight in zip(rows[first[i] : last[i]], weights[i]):
            total += np.multiply(row, weight, out=product)
        resized[i] = np.clip(total >> 22, 0, 255)
    return resized.reshape(size, *image.shape[1:])


def _ringed(probs: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Masks with a border of zeros, and boxes of whole pixels that grew with them, as CenterMask's first version."""
    height, width = probs.shape[1:]
    half = (boxes[:, 2:] - boxes[:, :2]) * np.float32(0.5) * np.float32([(width + 2) / width, (height + 2) / height])
    centre = (boxes[:, 2:] + boxes[:, :2]) * np.float32(0.5)
    boxes = np.concatenate([np.trunc(centre - half), np.trunc(centre + half) + 1], axis=1)
    return np.pad(probs, ((0, 0), (1, 1), (1, 1))), boxes


def _resize_bilinear(values: np.ndarray, size: Sequence[int], align_corners: bool) -> np.ndarray:
    """Resize a map (h, w) as PyTorch's ``interpolate`` does."""
    if not align_corners:
        return cv2.resize(values, size[::-1])
    for side in size:
        places = np.linspace(0, len(values) - 1, side, dtype=np.float32)
        before = places.astype(np.int64)
        share = (places - before)[:, None]
        values = (values[before] * (1 - share) + values[np.minimum(before + 1, len(values) - 1)] * share).T
    return values


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


def _runs(text: str) -> tuple[np.ndarray, np.ndarray]:
    """Values and lengths of the runs of a mask, from COCO's text."""
    digits = np.frombuffer(text.encode(), np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero(digits < 32) + 1
    starts = np.concatenate([[0], ends[:-1]])
    places = np.arange(len(digits)) - np.repeat(starts, ends - starts)
    counts = np.add.reduceat((digits & 31) << 5 * places, starts)
    counts -= np.where(digits[ends - 1] & 16, 1 << 5 * (ends - starts), 0)
    for first in (1, 2):
        counts[first::2] = counts[first::2].cumsum()
    return np.arange(len(counts)) % 2 == 1, counts


def _decode_cropped(mask: dict) -> tuple[int, int, np.ndarray]:
    """First column, first row and bitmap (h, w), uint8, of the part of a mask's image that has all of its pixels."""
    height = mask['size'][0]
    values, counts = _runs(mask['counts'])
    ends = counts.cumsum()
    if len(ends) < 2:
        return 0, 0, np.zeros((0, 0), np.uint8)
    left, right = ends[0] // height, (ends[values][-1] - 1) // height + 1
    # The runs from the first column to the last pixel; what comes after it may be most of a large image.
    counts[0] -= left * height
    stop = len(counts) // 2 * 2
    pixels = np.repeat(values[:stop].astype(np.uint8), counts[:stop])
    pixels = np.pad(pixels, (0, (right - left) * height - len(pixels))).reshape(right - left, height)
    rows = np.flatnonzero(pixels.any(axis=0))
    return int(left), int(rows[0]), cv2.transpose(pixels[:, rows[0] : rows[-1] + 1])


def _run_lengths(places: np.ndarray, height: int, width: int) -> dict:
    """COCO's encoding of a mask that changes at these places of its image, column by column."""
    counts = np.diff(places, prepend=0, append=height * width)
    return dict(size=[height, width], counts=_compress(counts[:-1] if len(counts) > 1 and not counts[-1] else counts))


def _compress(counts: np.ndarray) -> str:
    """COCO's text of run lengths: differences to the last but one from the fourth on, in digits of five bits."""
    values = counts.astype(np.int64)
    values[3:] -= counts[1:-2]
    # No run is longer than seven digits can say.
    rests = values[:, None] >> 5 * np.arange(8)
    digits = rests[:, :-1] & 31
    places, lasts = np.arange(7), (rests[:, 1:] == -(digits >> 4)).argmax(axis=1)[:, None]
    return (digits + 32 * (places < lasts) + 48)[places <= lasts].astype(np.uint8).tobytes().decode()


def run(arguments: list[str] | None = None) -> int:
    """Run the command line; a :class:`RuntimeInputError` is one line and exit status 2, Ctrl-C one line and 130."""
    try:
        return main(arguments)
    except KeyboardInterrupt:
        print('\nstopped by Ctrl-C', file=sys.stderr)
        return 130
    except RuntimeInputError as e:
        print(f'error: {e}', file=sys.stderr)
        return 2


if __name__ == '__main__':
    sys.exit(run())
