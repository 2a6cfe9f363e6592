from typing import NamedTuple


class ExportSettings(NamedTuple):
    """What an export does.

    Attributes:
        model_format: ``onnx``, ``openvino`` or ``torchscript``.
        precision: ``fp32``, ``fp16``, ``bf16`` or ``int8``.
        num_images: Test images on which the model is compared with PyTorch's.
        num_calibration_images: Training images that int8 is calibrated on.
        num_runs: Measured runs of each model.
        num_threads: Threads of the exported model while it is compared; 0: one per core.
        measure_ap: Whether both models are evaluated on all test data.
    """

    model_format: str = 'onnx'
    precision: str = 'fp32'
    num_images: int = 20
    num_calibration_images: int = 300
    num_runs: int = 5
    num_threads: int = 0
    measure_ap: bool = False
