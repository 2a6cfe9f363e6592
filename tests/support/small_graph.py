"""Graphs with the inputs, outputs and metadata of exported models, written in milliseconds.

What they find depends on every pixel of a corner of the image, and on its size.
"""

import json
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np

from mmdet_sag.deployment import runtime

MASK_SIZE = 28
# Scores, and boxes as shares of the image's width and height.
FOUND = ((0.9, (0.1, 0.2, 0.7, 0.9)), (0.6, (-0.1, 0.4, 0.5, 1.2)), (0.2, (0.6, 0.0, 1.0, 0.3)))


def metadata(backend: str = 'pillow', inclusive_boxes: bool = False, **more) -> dict:
    """Metadata of a model of two classes; ``more`` is added to it."""
    described = dict(
        runtime_version=1,
        model='CenterMask',
        format='onnx',
        precision='fp32',
        classes=['green', 'blue'],
        palette=[[0, 200, 0], [0, 0, 220]],
        preprocessing=dict(
            resize=dict(mode='keep_ratio', scale=[90, 75], backend=backend),
            mean=[103.53, 116.28, 123.675],
            std=[57.375, 57.12, 58.395],
            bgr_to_rgb=True,
            pad_size_divisor=32,
            pad_value=0.0,
        ),
        mask_thr=0.5,
        inclusive_boxes=inclusive_boxes,
        has_mask_scores=True,
    )
    return {**described, **more}


def fixed_metadata(backend: str, **preprocessing) -> dict:
    """Metadata of a model of one input size and at most six objects; ``preprocessing`` is added to its own."""
    described = metadata(runtime_version=2, input_size=[96, 128], detections=6)
    resize = dict(mode='fit', scale=[128, 96], backend=backend)
    described['preprocessing'].update(preprocessing, resize=resize)
    return described


def write_onnx(folder: Path, **settings) -> dict:
    """Write ``model.onnx``, ``report.json`` and ``runtime.py`` into a new folder; returns the metadata."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    described = metadata(**settings)
    scores, boxes = (np.float32(values) for values in zip(*FOUND))
    constants = dict(
        scores_=scores,
        shares=boxes,
        order=np.int64([1, 0]),
        corner_starts=np.int64([0, 0, 0]),
        corner_ends=np.int64([3, MASK_SIZE, MASK_SIZE]),
        labels_=np.int64([0, 1, 0]),
        image_indices_=np.int64([0, 0, 0]),
        first=np.int64(0),
        contrast=np.float32(0.01),
    )
    nodes = [
        helper.make_node('Gather', ['images', 'first'], ['image']),
        helper.make_node('Slice', ['image', 'corner_starts', 'corner_ends'], ['corners']),
        helper.make_node('Sigmoid', ['corners'], ['mask_probs']),
        helper.make_node('ReduceMean', ['corners'], ['brightness'], keepdims=0),
        helper.make_node('Mul', ['brightness', 'contrast'], ['change']),
        helper.make_node('Add', ['scores_', 'change'], ['scores']),
        helper.make_node('Identity', ['scores'], ['mask_scores']),
        helper.make_node('Gather', ['image_sizes', 'first'], ['size']),
        helper.make_node('Gather', ['size', 'order'], ['width_height']),
        helper.make_node('Concat', ['width_height', 'width_height'], ['sides'], axis=0),
        helper.make_node('Cast', ['sides'], ['sides_'], to=TensorProto.FLOAT),
        helper.make_node('Mul', ['shares', 'sides_'], ['boxes']),
        helper.make_node('Identity', ['labels_'], ['labels']),
        helper.make_node('Identity', ['image_indices_'], ['image_indices']),
    ]
    floats, ints = TensorProto.FLOAT, TensorProto.INT64
    types = dict(boxes=floats, scores=floats, labels=ints, image_indices=ints, mask_probs=floats, mask_scores=floats)
    shapes = dict(boxes=['n', 4], mask_probs=['n', MASK_SIZE, MASK_SIZE])
    graph = helper.make_graph(
        nodes,
        'small',
        [
            helper.make_tensor_value_info('images', floats, ['batch', 3, 'height', 'width']),
            helper.make_tensor_value_info('image_sizes', ints, ['batch', 2]),
        ],
        [helper.make_tensor_value_info(name, kind, shapes.get(name, ['n'])) for name, kind in types.items()],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 17)], ir_version=9)
    helper.set_model_props(model, {runtime.METADATA_KEY: json.dumps(described)})
    folder.mkdir(parents=True)
    onnx.save(model, str(folder / 'model.onnx'))
    (folder / 'report.json').write_text(json.dumps(dict(metadata=described)))
    shutil.copy(runtime.__file__, folder / 'runtime.py')
    return described


def write_openvino(folder: Path, write: Callable[..., dict] = write_onnx, **settings) -> None:
    """Write the model of ``write`` as ``model.xml`` and ``model.bin``, beside its ``model.onnx``."""
    import openvino

    described = {**write(folder, **settings), 'format': 'openvino'}
    model = openvino.Core().read_model(str(folder / 'model.onnx'))
    model.set_rt_info(json.dumps(described), [runtime.METADATA_KEY])
    openvino.save_model(model, str(folder / 'model.xml'), compress_to_fp16=False)


def write_prepared(folder: Path) -> dict:
    """Write, as :func:`write_onnx`, a model that prepares images itself and whose six outputs are half padding."""
    described = fixed_metadata('pillow', in_graph=True)
    folder.mkdir(parents=True)
    (folder / 'model.onnx').write_bytes(_prepared_model())
    (folder / 'report.json').write_text(json.dumps(dict(metadata=described)))
    return described


@cache
def _prepared_model() -> bytes:
    """The same model behind the graph that prepares images, as it is exported."""
    import torch

    from mmdet_sag.deployment.formats import FORMATS
    from mmdet_sag.deployment.graphs.detection_graph import Outputs
    from mmdet_sag.deployment.graphs.padded_graph import PaddedGraph
    from mmdet_sag.deployment.graphs.preprocessed_graph import PreprocessedGraph

    class SmallGraph(torch.nn.Module):
        def forward(self, images: torch.Tensor, image_sizes: torch.Tensor) -> Outputs:
            scores, shares = map(torch.tensor, zip(*FOUND))
            corners = images[0, :, :MASK_SIZE, :MASK_SIZE]
            scores = scores + 0.01 * corners.mean(dim=(1, 2))
            labels = torch.tensor([0, 1, 0])
            boxes = shares * image_sizes[0].flip(0).repeat(2)
            return Outputs(boxes, scores, labels, torch.zeros_like(labels), corners.sigmoid(), scores)

    described = fixed_metadata('pillow', in_graph=True)
    graph = PaddedGraph(SmallGraph(), described['detections'])
    graph = PreprocessedGraph(graph, described['preprocessing'], described['input_size'])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, 'model.onnx')
        FORMATS['onnx'].write(graph, path, described)
        return path.read_bytes()
