from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from typing import NamedTuple

from mmengine.config import Config

from ..datasets.data_sources import config_images, innermost_dataset
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


def calibration_batches(cfg: Config, num_images: int) -> Callable[[], Iterator[dict]]:
    """Return what loads training images of a config, by its test pipeline, in batches of one, when it is called.

    Concatenated data sets contribute equally.
    """
    loader = cfg.get('train_dataloader')
    if loader is None:
        raise InputError('--precision int8 is calibrated on training images, but the config has no train_dataloader')
    dataset = innermost_dataset(loader.dataset)
    parts = dataset.get('datasets', [dataset])
    load = [partial(config_images, cfg, -(-num_images // len(parts)), innermost_dataset(part)) for part in parts]
    try:
        for part in load:
            part()
    except OSError as e:
        raise InputError(
            f'--precision int8 is calibrated on training images, but {e.filename} cannot be read ({e.strerror}): check '
            'train_dataloader.dataset'
        ) from e
    return lambda: chain.from_iterable(part() for part in load)


def quantize(model, operators: Iterable[Operator], images: Callable[[], Iterable[tuple]], types: Sequence[str] = ()):
    """Quantize a float32 model to 8 bits after training, by NNCF.

    Backbone, neck and the towers of the box head become int8. The layers that predict classes and boxes, also those
    of proposals and of a cascade's stages, stay in float, and so does the mask branch, which takes a small share of the
    time and loses most by int8. So do operators of ``types``.

    ``operators`` are the model's, parents first. ``images`` returns inputs from which the ranges of features are
    estimated; it is called for each pass over them, so that they need not be in memory together.
    """
    import nncf

    inputs = _Inputs(images)
    return nncf.quantize(
        model,
        nncf.Dataset(inputs),
        subset_size=sum(1 for _ in inputs),
        preset=nncf.QuantizationPreset.MIXED,
        ignored_scope=nncf.IgnoredScope(names=_kept_in_float(operators), types=list(types), validate=False),
    )


class _Inputs:
    """Inputs of a model by their names, which may be iterated over again."""

    def __init__(self, images: Callable[[], Iterable[tuple]]) -> None:
        self.images = images

    def __iter__(self) -> Iterator[dict]:
        return (dict(images=image, image_sizes=sizes) for image, sizes in self.images())


def _kept_in_float(operators: Iterable[Operator]) -> list[str]:
    """Names of all operators after the last NMS, and of the last layers before each NMS and the boxes of each pooling.

    Parents come first; a pooling's are its features, and then its boxes. Without NMS, the first TopK takes its place,
    and the last layers before all that comes after it are kept too.
    """
    operators = {operator.name: operator for operator in operators}
    all_nms = [operator.name for operator in operators.values() if operator.kind == 'NonMaxSuppression']
    peaks = [operator.name for operator in operators.values() if operator.kind == 'TopK']
    kept = {all_nms[-1] if all_nms else peaks[0]}
    for operator in operators.values():
        if kept.intersection(operator.parents):
            kept.add(operator.name)
    poolings = [operator for operator in operators.values() if operator.kind in ('RoiAlign', 'ROIAlign')]
    above, seen = all_nms + [parent for pooling in poolings for parent in pooling.parents[1:]], set()
    if not all_nms:
        above = [peaks[0], *(parent for name in kept for parent in operators[name].parents if parent not in kept)]
    while above:
        operator = operators[above.pop()]
        if operator.name not in seen and operator.kind not in _WEIGHTED:
            above += operator.parents
        seen.add(operator.name)
    constants = {operator.name for operator in operators.values() if operator.kind in ('Constant', 'Parameter')}
    return sorted((kept | seen) - constants)
