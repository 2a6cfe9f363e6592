import json
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, count
from pathlib import Path

import torch
from torch import nn

from ..errors import InputError
from . import runtime
from .onnx_operators import NATIVE_OPSET, OPSET_VERSION, lower_opset, onnx_translations, read_with_openvino
from .quantization import Operator, quantize

Inputs = Callable[[], Iterable[tuple]]
_DIVISOR = 32


class ExportFormat:
    """A file format of exported models. A subclass that is defined here is a format of the export tool.

    ``precisions`` are its precisions, and the type in which layers compute when the graph is written; ``int8`` is
    quantized from that. ``packages`` are those that writing it needs.
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
        if 'onnxscript' in self.packages and not hasattr(torch.compiler, 'is_exporting'):
            raise InputError(
                f'--format {self.name} needs PyTorch 2.7, this is {torch.__version__}; use --format torchscript'
            )
        for package in (*self.packages, *(['nncf'] if precision == 'int8' else [])):
            try:
                __import__(package)
            except ImportError as e:
                raise InputError(
                    f"--format {self.name} --precision {precision} needs {package}: pip install 'mmdet_sag[deploy]'"
                ) from e

    def write(self, graph: nn.Module, path: Path, metadata: dict, images: Inputs = tuple) -> None:
        """Write a graph, in the type of ``precisions``, to a file, which holds the model's metadata too.

        ``images`` returns the inputs of the model on which ``int8`` is calibrated.
        """
        raise NotImplementedError


class OnnxFormat(ExportFormat):
    """An ONNX file of standard operators, for images of any size and number."""

    name = 'onnx'
    suffix = '.onnx'
    precisions = dict(fp32=torch.float32, fp16=torch.float16, int8=torch.float32)
    packages = ('onnx', 'onnxscript', 'onnxruntime')

    def write(self, graph: nn.Module, path: Path, metadata: dict, images: Inputs = tuple) -> None:
        import onnx
        from onnxscript import ir

        opset = metadata.get('opset', OPSET_VERSION)
        size = metadata.get('input_size')
        batch = torch.export.Dim('batch', min=1, max=1024)
        names = runtime.input_names(metadata)
        dynamic = {name: {0: batch} for name in names}
        if 'image_sizes' not in names:
            dynamic['images'].update({i: torch.export.Dim(f'side{i}', min=2, max=1 << 16) for i in (1, 2)})
        elif size is None:
            # That of detectors is for all their levels, whatever the images are padded to.
            divisor = metadata['preprocessing']['pad_size_divisor'] if 'semantic' in metadata else _DIVISOR
            # The exporter refuses sizes at which a layer's output could be a single pixel; files have no bounds.
            least = -(-64 // divisor) if 'semantic' in metadata else 1
            height, width = (divisor * torch.export.Dim(name, min=least, max=1 << 15) for name in ('rows', 'columns'))
            dynamic['images'].update({2: height, 3: width})
        with _one_line_errors(graph), torch.no_grad():
            onnx_program = torch.onnx.export(
                torch.export.export(graph, _example(metadata), dynamic_shapes=dynamic, strict=False),
                dynamo=True,
                opset_version=max(opset, NATIVE_OPSET),
                custom_translation_table=onnx_translations(),
                input_names=list(names),
                output_names=list(runtime.output_names(metadata)),
                verbose=False,
            )
        written = onnx_program.model.graph
        # The exporter notes where each operator comes from in this machine's files.
        for part in (written, *written.all_nodes()):
            part.metadata_props.clear()
        shapes = dict(images=['batch', 3, *(size or ('height', 'width'))], image_sizes=['batch', 2])
        if 'image_sizes' not in names:
            shapes['images'] = ['batch', 'height', 'width', 3]
        for given in written.inputs:
            given.shape = ir.Shape(shapes[given.name])
        for output in written.outputs:
            if output.name == 'semantic_logits':
                rest = output.shape[1:] if size else [output.shape[1], 'logits_height', 'logits_width']
                output.shape = ir.Shape(['batch', *rest])
            else:
                first = 'batch' if metadata.get('detections') else 'detections'
                output.shape = ir.Shape([first, *output.shape[1:]])
        onnx_program.model.metadata_props[runtime.METADATA_KEY] = json.dumps(metadata)
        onnx_program.save(str(path), external_data=False)
        model = onnx.load(str(path))
        # The shapes of intermediate values, which runtimes infer, name the dimensions otherwise.
        del model.graph.value_info[:]
        with _one_line_errors(graph):
            model = lower_opset(model, opset)
        if metadata['precision'] == 'int8':
            model = quantize(model, self._operators(model), images)
        onnx.save(model, str(path))

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

    def write(self, graph: nn.Module, path: Path, metadata: dict, images: Inputs = tuple) -> None:
        import openvino

        onnx_path = path.with_name('float.onnx')
        FORMATS['onnx'].write(graph, onnx_path, {**metadata, 'precision': 'fp32', 'opset': OPSET_VERSION})
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

    def write(self, graph: nn.Module, path: Path, metadata: dict, images: Inputs = tuple) -> None:
        with _one_line_errors(graph), torch.no_grad():
            script = torch.jit.trace(graph, _example(metadata), check_trace=False)
            _follow_inputs(script)
            torch.jit.save(script, str(path), _extra_files={f'{runtime.METADATA_KEY}.json': json.dumps(metadata)})


FORMATS: dict[str, ExportFormat] = {kind.name: kind() for kind in ExportFormat.__subclasses__()}


def is_exported(path: str) -> bool:
    """Whether a path names an exported model, or a folder with one.

    A .pt file is one if it holds code, otherwise it is a checkpoint.
    """
    if Path(path).is_dir():
        return any(Path(path, f'model{suffix}').is_file() for suffix in runtime.LOADERS)
    if not path.endswith(TorchScriptFormat.suffix):
        return path.endswith(tuple(runtime.LOADERS))
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any('/code/' in name for name in archive.namelist())


def load_predictor(path: str, num_threads: int = 0, device: str = 'CPU') -> runtime.Predictor:
    """Load an exported model, a file or its folder, with its runtime, as ``model``.

    ``num_threads`` 0 is one per core; of a TorchScript model, they are PyTorch's from now on, and 0 leaves them.
    """
    try:
        return runtime.load_predictor(path, num_threads, device)
    except runtime.RuntimeInputError as e:
        raise InputError(str(e)) from e


def _example(metadata: dict) -> tuple[torch.Tensor, ...]:
    """Images that lead through all operators; their content does not matter, their size does.

    The exporter takes a size of 1 as constant, so no level of the neck of a model of any size may be that small.
    """
    generator = torch.Generator().manual_seed(0)
    height, width = metadata.get('input_size') or (12 * _DIVISOR, 16 * _DIVISOR)
    if 'image_sizes' not in runtime.input_names(metadata):
        return (torch.randint(256, (2, height - 8, width + 10, 3), generator=generator, dtype=torch.uint8),)
    images = torch.randn(2, 3, height, width, generator=generator)
    return images, torch.tensor([[height - 8, width - 10], [height, width]])


def _follow_inputs(script: torch.jit.ScriptModule) -> None:
    """Let a trace make its tensors on the device of its inputs, where the trace has the device of the example."""
    for graph in chain.from_iterable(map(_graphs_of_calls, script.modules())):
        constants = [node for node in graph.findAllNodes('prim::Constant') if str(node.output().type()) == 'Device']
        if not constants:
            continue
        tensor = next(value for value in graph.inputs() if value.type().kind() == 'TensorType')
        device = graph.create('prim::device', [tensor], 1)
        device.output().setType(constants[0].output().type())
        graph.prependNode(device)
        for node in constants:
            node.output().replaceAllUsesWith(device.output())
            node.destroy()


def _graphs_of_calls(module: torch.jit.ScriptModule) -> Iterator[torch.Graph]:
    """The graph of each call of a traced module; one that was called again has a method for each time."""
    try:
        yield module.graph
    # It was not called.
    except RuntimeError:
        return
    for number in count(1):
        if not hasattr(module, f'forward{number}'):
            return
        yield getattr(module, f'forward{number}').graph


@contextmanager
def _one_line_errors(graph: nn.Module):
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
        detector = next(part.detector for part in graph.modules() if hasattr(part, 'detector'))
        raise InputError(f'{type(detector).__name__} cannot be exported: {_one_line(cause)}') from e


def _one_line(error: Exception) -> str:
    return ' '.join(str(error).split())[:300]
