import json
from contextlib import contextmanager
from pathlib import Path

import torch
from mmdet.models.detectors import TwoStageDetector
from torch import nn

from ..errors import InputError
from ..models.detectors import CenterMask, PanopticCenterMask
from .graphs import CenterMaskGraph, DetectionGraph, Outputs, TwoStageGraph
from .onnx_operators import OPSET_VERSION, onnx_translations, read_with_openvino
from .runtime import METADATA_KEY

FILES = dict(onnx='model.onnx', openvino='model.xml', torchscript='model.pt')
PRECISIONS = dict(
    onnx=('fp32', 'fp16', 'int8'),
    openvino=('fp32', 'fp16', 'bf16', 'int8'),
    torchscript=('fp32', 'fp16', 'bf16'),
)
# What PyTorch itself rounds weights and features to. OpenVINO does it when it loads a model.
_DTYPES = dict(onnx=dict(fp16=torch.float16), torchscript=dict(fp16=torch.float16, bf16=torch.bfloat16), openvino={})
_DIVISOR = 32


def check_format(model_format: str, precision: str) -> None:
    """Refuse what cannot be exported, and formats whose packages are missing.

    Raises:
        InputError: The format does not have the precision, or a package is missing.
    """
    if precision not in PRECISIONS[model_format]:
        fitting = [name for name, precisions in PRECISIONS.items() if precision in precisions]
        raise InputError(
            f'--precision {precision}: {model_format} models have {", ".join(PRECISIONS[model_format])}; use --format '
            f'{" or ".join(fitting)}'
        )
    needed = dict(onnx=('onnx', 'onnxscript', 'onnxruntime'), torchscript=())
    needed['openvino'] = ('onnx', 'onnxscript', 'openvino')
    for package in (*needed[model_format], *(('nncf',) if precision == 'int8' else ())):
        try:
            __import__(package)
        except ImportError as e:
            raise InputError(
                f'--format {model_format} --precision {precision} needs {package}: pip install -r '
                'requirements/deploy.txt'
            ) from e


def build_graph(detector: nn.Module, model_format: str = 'onnx', precision: str = 'fp32') -> DetectionGraph:
    """Make the graph that an export writes.

    Args:
        detector: The detector, its weights loaded.
        model_format: ``onnx``, ``openvino`` or ``torchscript``.
        precision: ``fp32``, ``fp16``, ``bf16`` or ``int8``.

    Raises:
        InputError: The detector has no instance masks, or something that cannot be exported.
    """
    dtype = _DTYPES[model_format].get(precision, torch.float32)
    if isinstance(detector, PanopticCenterMask):
        raise InputError('PanopticCenterMask cannot be exported: only instance segmentation can')
    if not getattr(getattr(detector, 'roi_head', None), 'with_mask', False):
        raise InputError(f'{type(detector).__name__} predicts no instance masks, which is what can be exported')
    if isinstance(detector, CenterMask):
        return CenterMaskGraph(detector, dtype)
    if isinstance(detector, TwoStageDetector) and detector.with_rpn:
        return TwoStageGraph(detector, dtype)
    raise InputError(f'{type(detector).__name__} cannot be exported, only CenterMask and two-stage detectors can')


def write_onnx(graph: DetectionGraph, path: Path, metadata: dict) -> None:
    """Write a graph as an ONNX file, for images of any size and number.

    Raises:
        InputError: It has an operator that cannot be exported.
    """
    batch = torch.export.Dim('batch', min=1, max=1024)
    height, width = (_DIVISOR * torch.export.Dim(name, min=1, max=1024) for name in ('rows', 'columns'))
    dynamic = dict(images={0: batch, 2: height, 3: width}, image_sizes={0: batch})
    with _one_line_errors(graph), torch.no_grad():
        program = torch.export.export(graph, _example(), dynamic_shapes=dynamic, strict=False)
        onnx_program = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET_VERSION,
            custom_translation_table=onnx_translations(),
            input_names=['images', 'image_sizes'],
            output_names=list(Outputs._fields),
            verbose=False,
        )
    onnx_program.model.metadata_props[METADATA_KEY] = json.dumps(metadata)
    onnx_program.save(str(path), external_data=False)


def write_openvino(onnx_path: Path, path: Path, metadata: dict) -> None:
    """Write an ONNX file as OpenVINO's .xml and .bin.

    Raises:
        InputError: It has an operator that OpenVINO does not know.
    """
    import openvino

    try:
        model = read_with_openvino(onnx_path)
    except Exception as e:
        raise InputError(f'OpenVINO {openvino.__version__} cannot read this model: {_one_line(e)}') from e
    save_openvino(model, path, metadata)


def save_openvino(model, path: Path, metadata: dict) -> None:
    """Save an OpenVINO model with its metadata; weights of fp16 models take half the space."""
    import openvino

    model.set_rt_info(json.dumps(metadata), [METADATA_KEY])
    openvino.save_model(model, str(path), compress_to_fp16=metadata['precision'] == 'fp16')


def write_torchscript(graph: DetectionGraph, path: Path, metadata: dict) -> None:
    """Write a graph as a TorchScript file, which calls torchvision's operators.

    Raises:
        InputError: It has an operator that cannot be exported.
    """
    with _one_line_errors(graph), torch.no_grad():
        script = torch.jit.trace(graph, _example(), check_trace=False)
        torch.jit.save(script, str(path), _extra_files={f'{METADATA_KEY}.json': json.dumps(metadata)})


def _example() -> tuple[torch.Tensor, torch.Tensor]:
    """Images that lead through all operators; their content does not matter, their size does.

    The exporter takes a size of 1 for one that is always 1, so no level of the neck may be that small.
    """
    generator = torch.Generator().manual_seed(0)
    height, width = 12 * _DIVISOR, 16 * _DIVISOR
    images = torch.randn(2, 3, height, width, generator=generator)
    return images, torch.tensor([[height - 8, width - 10], [height, width]])


@contextmanager
def _one_line_errors(graph: DetectionGraph):
    try:
        yield
    except InputError:
        raise
    # The exporter fails in as many ways as there are operators.
    except Exception as e:
        cause = e
        # The exporter's own message is advice on how to report it; the first error names the operator.
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise InputError(f'{type(graph.detector).__name__} cannot be exported: {_one_line(cause)}') from e


def _one_line(error: Exception | str) -> str:
    return ' '.join(str(error).split())[:300]
