"""Triton's configuration names the inputs and outputs of an exported model."""

import re
from pathlib import Path

import pytest
from support.small_graph import write_onnx

from mmdet_sag.deployment import runtime

CONFIG = Path(__file__).parents[3] / 'demo/serving/triton/centermask/config.pbtxt'
TENSOR = re.compile(r'name: "(\w+)" data_type: TYPE_(\w+) dims: \[ (.*?) \]')


def test_it_has_the_tensors_that_the_runtime_reads(tmp_path):
    onnx = pytest.importorskip('onnx')
    write_onnx(tmp_path / 'exported')
    graph = onnx.load(str(tmp_path / 'exported/model.onnx')).graph
    types = {onnx.TensorProto.FLOAT: 'FP32', onnx.TensorProto.INT64: 'INT64'}
    expected = [
        (
            value.name,
            types[value.type.tensor_type.elem_type],
            ', '.join(str(side.dim_value or -1) for side in value.type.tensor_type.shape.dim),
        )
        for value in (*graph.input, *graph.output)
    ]
    text = CONFIG.read_text()
    found = TENSOR.findall(text)
    assert found == expected
    assert [name for name, *_ in found[2:]] == list(runtime.OUTPUTS)
    # Batching by Triton would need outputs of one size per image.
    assert 'max_batch_size: 0\n' in text
