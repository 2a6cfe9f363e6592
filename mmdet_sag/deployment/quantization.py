from collections.abc import Iterator
from pathlib import Path

from mmengine.config import Config
from torch import nn

from ..errors import InputError
from .comparison import config_images, prepare
from .exporting import save_openvino


def calibration_batches(cfg: Config, num_images: int) -> Iterator[dict]:
    """Training images of a config, as its test pipeline loads them, in batches of one.

    Raises:
        InputError: The config has no training data.
    """
    loader = cfg.get('train_dataloader')
    if loader is None:
        raise InputError('--precision int8 is calibrated on training images, but the config has no train_dataloader')
    dataset = loader.dataset
    while 'dataset' in dataset:
        dataset = dataset.dataset
    return config_images(cfg, num_images, dataset)


def quantize(source: Path, target: Path, detector: nn.Module, batches: Iterator[dict], metadata: dict) -> None:
    """Quantize an exported float32 model to 8 bits after training, by NNCF.

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
    options = dict(subset_size=len(images), preset=nncf.QuantizationPreset.MIXED)
    if target.suffix == '.onnx':
        import onnx

        model = nncf.quantize(onnx.load(str(source)), data, **options)
        onnx.save(model, str(target))
        return
    import openvino

    save_openvino(nncf.quantize(openvino.Core().read_model(str(source)), data, **options), target, metadata)
