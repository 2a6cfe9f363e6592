from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import NamedTuple

from mmengine.config import Config

from ..datasets.config_datasets import config_images
from ..datasets.data_sources import innermost_dataset
from ..errors import InputError

# Layers with weights, in ONNX's names and in OpenVINO's.
_WEIGHTED = {
    *('Conv', 'ConvTranspose', 'Gemm', 'MatMul', 'DeformConv'),
    *('Convolution', 'ConvolutionBackpropData', 'GroupConvolution', 'DeformableConvolution'),
}


class Operator(NamedTuple):
    """An operator of an exported graph: name, type in the format's words, and names of those whose outputs it takes."""

    name: str
    kind: str
    parents: list[str]


def calibration_batches(cfg: Config, num_images: int) -> Iterator[dict]:
    """Load training images of a config, by its test pipeline, in batches of one.

    Concatenated data sets contribute equally.

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


def quantize(model, operators: Iterable[Operator], images: Iterable[tuple], types: Sequence[str] = ()):
    """Quantize a float32 model to 8 bits after training, by NNCF.

    Backbone, neck and the towers of the box head become int8. The layers that predict classes and boxes stay in float,
    and so does the mask branch, which takes a small share of the time and loses most by int8.

    Args:
        model: The model, as NNCF takes it.
        operators: Its operators, parents first.
        images: Inputs of the model, from which the ranges of features are estimated.
        types: Further types of operators that stay in float.
    """
    import nncf

    images = [dict(images=image, image_sizes=sizes) for image, sizes in images]
    return nncf.quantize(
        model,
        nncf.Dataset(images),
        subset_size=len(images),
        preset=nncf.QuantizationPreset.MIXED,
        ignored_scope=nncf.IgnoredScope(names=_kept_in_float(operators), types=list(types), validate=False),
    )


def _kept_in_float(operators: Iterable[Operator]) -> list[str]:
    """Names of all operators after the last NMS, and of the last layers before it; parents come first."""
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
        if operator.kind not in _WEIGHTED:
            above += operator.parents
    constants = {operator.name for operator in operators.values() if operator.kind in ('Constant', 'Parameter')}
    return sorted((kept | seen) - constants)
