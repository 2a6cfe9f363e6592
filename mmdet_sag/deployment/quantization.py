from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from mmengine.config import Config
from torch import nn

from ..datasets.innermost_dataset import innermost_dataset
from ..errors import InputError
from .comparison import config_images, prepare
from .formats import save_openvino
from .onnx_operators import read_with_openvino

# Layers with weights, in ONNX's names and in OpenVINO's.
_WEIGHTED = {
    *('Conv', 'ConvTranspose', 'Gemm', 'MatMul', 'DeformConv'),
    *('Convolution', 'ConvolutionBackpropData', 'GroupConvolution', 'DeformableConvolution'),
}


class _Operator(NamedTuple):
    name: str
    kind: str
    parents: list[str]


def calibration_batches(cfg: Config, num_images: int) -> Iterator[dict]:
    """Training images of a config, as its test pipeline loads them, in batches of one.

    Of joined data sets, each gives its share.

    Raises:
        InputError: The config has no training data, or they are not where it says.
    """
    loader = cfg.get('train_dataloader')
    if loader is None:
        raise InputError('--precision int8 is calibrated on training images, but the config has no train_dataloader')
    dataset = innermost_dataset(loader.dataset)
    parts = dataset.get('datasets', [dataset])
    try:
        batches = [config_images(cfg, -(-num_images // len(parts)), innermost_dataset(part)) for part in parts]
    except OSError as e:
        raise InputError(
            f'--precision int8 is calibrated on training images, but {e.filename} cannot be read ({e.strerror}): check '
            'train_dataloader.dataset'
        ) from e
    return chain.from_iterable(batches)


def quantize(source: Path, target: Path, detector: nn.Module, batches: Iterator[dict], metadata: dict) -> None:
    """Quantize an exported float32 model to 8 bits after training, by NNCF.

    Backbone, neck and the towers of the box head become int8. The layers that predict classes and boxes, and the mask
    branch, which has a small share of the time and whose masks lose most, stay as they are.

    Args:
        source: The float32 model.onnx.
        target: The model.onnx or model.xml to write.
        detector: The detector, whose data preprocessor prepares the images.
        batches: Images that the ranges of features are taken from.
        metadata: Metadata of the quantized model.
    """
    import nncf

    images = [prepare(detector, batch)[2] for batch in batches]
    data = nncf.Dataset([dict(images=image, image_sizes=size) for image, size in images])

    def run(model, operators: Iterable[_Operator], types: Sequence[str] = ()):
        ignored = nncf.IgnoredScope(names=_kept_in_float(operators), types=list(types), validate=False)
        preset = nncf.QuantizationPreset.MIXED
        return nncf.quantize(model, data, subset_size=len(images), preset=preset, ignored_scope=ignored)

    if target.suffix == '.onnx':
        import onnx

        model = onnx.load(str(source))
        onnx.save(run(model, _onnx_operators(model)), str(target))
        return
    model = read_with_openvino(source)
    # Sums of FPN levels join values of different ranges: 8 bits for both cost 7 points of mask AP, which NNCF's ONNX
    # backend does not do.
    quantized = run(model, _openvino_operators(model), types=('Add', 'Interpolate'))
    save_openvino(quantized, target, metadata)


def _onnx_operators(model) -> Iterator[_Operator]:
    makers = {output: node.name for node in model.graph.node for output in node.output}
    for node in model.graph.node:
        yield _Operator(node.name, node.op_type, [makers[name] for name in node.input if name in makers])


def _openvino_operators(model) -> Iterator[_Operator]:
    for node in model.get_ordered_ops():
        parents = [value.get_node().get_friendly_name() for value in node.input_values()]
        yield _Operator(node.get_friendly_name(), node.get_type_name(), parents)


def _kept_in_float(operators: Iterable[_Operator]) -> list[str]:
    """Names of all that follows the last NMS, and of the last layers before it; operators in their order."""
    operators = {operator.name: operator for operator in operators}
    last_nms = [operator.name for operator in operators.values() if operator.kind == 'NonMaxSuppression'][-1]
    kept = {last_nms}
    for operator in operators.values():
        if kept.intersection(operator.parents):
            kept.add(operator.name)
    above, seen = [last_nms], set()
    while above:
        operator = operators[above.pop()]
        if operator.name in seen:
            continue
        seen.add(operator.name)
        kept.add(operator.name)
        if operator.kind not in _WEIGHTED:
            above += operator.parents
    constants = {operator.name for operator in operators.values() if operator.kind in ('Constant', 'Parameter')}
    return sorted(kept - constants)
