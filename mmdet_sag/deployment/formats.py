import json
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

# TorchScript models call torchvision's operators.
import torchvision  # noqa: F401

from ..errors import InputError
from . import runtime
from .graphs.detection_graph import DetectionGraph, Outputs
from .onnx_operators import OPSET_VERSION, onnx_translations, read_with_openvino
from .quantization import Operator, quantize

_DIVISOR = 32


class ExportFormat:
    """A file format of exported models. A subclass that is defined here is a format of the export tool.

    Attributes:
        name: Name of the format.
        suffix: Suffix of its file.
        precisions: Its precisions, and the type in which layers compute when the graph is written. ``int8`` is
            quantized from that.
        packages: Packages that writing it needs.
    """

    name: str
    suffix: str
    precisions: dict[str, torch.dtype]
    packages: tuple[str, ...] = ()

    def check(self, precision: str) -> None:
        """Raise an InputError if the format lacks a precision, or if a package that it needs is not installed."""
        if precision not in self.precisions:
            others = ' or '.join(other.name for other in FORMATS.values() if precision in other.precisions)
            have = ', '.join(self.precisions)
            raise InputError(f'--precision {precision}: {self.name} models have {have}; use --format {others}')
        for package in (*self.packages, *(['nncf'] if precision == 'int8' else [])):
            try:
                __import__(package)
            except ImportError as e:
                raise InputError(
                    f"--format {self.name} --precision {precision} needs {package}: pip install 'mmdet_sag[deploy]'"
                ) from e

    def write(self, graph: DetectionGraph, path: Path, metadata: dict, images: Iterable[tuple] = ()) -> None:
        """Write a graph to a file.

        Args:
            graph: The graph, in the type of ``precisions``.
            path: Path of the file.
            metadata: Metadata of the model, which the file holds too.
            images: Inputs of the model on which ``int8`` is calibrated.

        Raises:
            InputError: The graph has an operator that cannot be exported.
        """
        raise NotImplementedError


class OnnxFormat(ExportFormat):
    """An ONNX file of standard operators, for images of any size and number."""

    name = 'onnx'
    suffix = '.onnx'
    precisions = dict(fp32=torch.float32, fp16=torch.float16, int8=torch.float32)
    packages = ('onnx', 'onnxscript', 'onnxruntime')

    def write(self, graph: DetectionGraph, path: Path, metadata: dict, images: Iterable[tuple] = ()) -> None:
        batch = torch.export.Dim('batch', min=1, max=1024)
        height, width = (_DIVISOR * torch.export.Dim(name, min=1, max=1024) for name in ('rows', 'columns'))
        dynamic = dict(images={0: batch, 2: height, 3: width}, image_sizes={0: batch})
        with _one_line_errors(graph), torch.no_grad():
            onnx_program = torch.onnx.export(
                torch.export.export(graph, _example(), dynamic_shapes=dynamic, strict=False),
                dynamo=True,
                opset_version=OPSET_VERSION,
                custom_translation_table=onnx_translations(),
                input_names=['images', 'image_sizes'],
                output_names=list(Outputs._fields),
                verbose=False,
            )
        onnx_program.model.metadata_props[runtime.METADATA_KEY] = json.dumps(metadata)
        onnx_program.save(str(path), external_data=False)
        if metadata['precision'] == 'int8':
            import onnx

            model = onnx.load(str(path))
            onnx.save(quantize(model, self._operators(model), images), str(path))

    @staticmethod
    def _operators(model) -> Iterator[Operator]:
        makers = {output: node.name for node in model.graph.node for output in node.output}
        for node in model.graph.node:
            yield Operator(node.name, node.op_type, [makers[name] for name in node.input if name in makers])


class OpenVINOFormat(ExportFormat):
    """An OpenVINO .xml with the weights in a .bin beside it. OpenVINO rounds to bf16 and fp16 when it loads a model."""

    name = 'openvino'
    suffix = '.xml'
    precisions = dict.fromkeys(('fp32', 'fp16', 'bf16', 'int8'), torch.float32)
    packages = ('onnx', 'onnxscript', 'openvino')

    def write(self, graph: DetectionGraph, path: Path, metadata: dict, images: Iterable[tuple] = ()) -> None:
        import openvino

        onnx_path = path.with_name('float.onnx')
        FORMATS['onnx'].write(graph, onnx_path, {**metadata, 'precision': 'fp32'})
        try:
            model = read_with_openvino(onnx_path)
        except Exception as e:
            raise InputError(f'OpenVINO {openvino.__version__} cannot read this model: {_one_line(e)}') from e
        if metadata['precision'] == 'int8':
            # Sums of FPN levels join values of different ranges: 8 bits for both cost 7 points of mask AP. NNCF's ONNX
            # backend does not quantize them.
            model = quantize(model, self._operators(model), images, types=('Add', 'Interpolate'))
        model.set_rt_info(json.dumps(metadata), [runtime.METADATA_KEY])
        openvino.save_model(model, str(path), compress_to_fp16=metadata['precision'] == 'fp16')
        onnx_path.unlink()

    @staticmethod
    def _operators(model) -> Iterator[Operator]:
        for node in model.get_ordered_ops():
            parents = [value.get_node().get_friendly_name() for value in node.input_values()]
            yield Operator(node.get_friendly_name(), node.get_type_name(), parents)


class TorchScriptFormat(ExportFormat):
    """A TorchScript file, which calls torchvision's operators and runs in PyTorch."""

    name = 'torchscript'
    suffix = '.pt'
    precisions = dict(fp32=torch.float32, fp16=torch.float16, bf16=torch.bfloat16)

    def write(self, graph: DetectionGraph, path: Path, metadata: dict, images: Iterable[tuple] = ()) -> None:
        with _one_line_errors(graph), torch.no_grad():
            script = torch.jit.trace(graph, _example(), check_trace=False)
            torch.jit.save(script, str(path), _extra_files={f'{runtime.METADATA_KEY}.json': json.dumps(metadata)})


class TorchScriptModel:
    """A model.pt, with the interface of the runtime's models.

    Args:
        path: Path of the file.
        num_threads: Number of PyTorch's threads from now on; 0: unchanged.

    Raises:
        RuntimeInputError: The file cannot be used.
    """

    def __init__(self, path: Path, num_threads: int = 0) -> None:
        name = f'{runtime.METADATA_KEY}.json'
        files = {name: ''}
        try:
            self.module = torch.jit.load(str(path), map_location='cpu', _extra_files=files).eval()
        except Exception as e:
            reason = f'is damaged, or no TorchScript model; export it again ({_one_line(e)})'
            raise runtime.RuntimeInputError(f'{path}: {reason}') from e
        self.metadata = runtime.read_metadata(path, files[name] or None, runtime.OUTPUTS)
        if num_threads:
            torch.set_num_threads(num_threads)

    @torch.inference_mode()
    def __call__(self, images: np.ndarray, image_sizes: np.ndarray) -> dict:
        """Detect objects; see :meth:`mmdet_sag.deployment.runtime.OnnxModel.__call__`."""
        outputs = self.module(torch.from_numpy(images), torch.from_numpy(image_sizes))
        return {name: output.numpy() for name, output in zip(runtime.OUTPUTS, outputs)}


FORMATS: dict[str, ExportFormat] = {kind.name: kind() for kind in ExportFormat.__subclasses__()}


def is_exported(path: str) -> bool:
    """Whether a path names an exported model. A .pt file is one if it holds code, otherwise it is a checkpoint."""
    if not path.endswith(TorchScriptFormat.suffix) or not zipfile.is_zipfile(path):
        return path.endswith(tuple(runtime.LOADERS))
    with zipfile.ZipFile(path) as archive:
        return any('/code/' in name for name in archive.namelist())


def load_exported(path: str, num_threads: int = 0) -> runtime.Model | TorchScriptModel:
    """Load an exported model of any format.

    Args:
        path: Path of the file, or of the folder of a model.onnx or model.xml.
        num_threads: Number of threads; 0: one per core.

    Raises:
        InputError: It cannot be used.
    """
    load = TorchScriptModel if path.endswith(TorchScriptFormat.suffix) else runtime.load_model
    try:
        return load(Path(path), num_threads)
    except runtime.RuntimeInputError as e:
        raise InputError(str(e)) from e


def _example() -> tuple[torch.Tensor, torch.Tensor]:
    """Images that lead through all operators; their content does not matter, their size does.

    The exporter takes a size of 1 as constant, so no level of the neck may be that small.
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


def _one_line(error: Exception) -> str:
    return ' '.join(str(error).split())[:300]
