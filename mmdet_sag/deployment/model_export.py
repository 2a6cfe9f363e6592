import json
import shutil
from pathlib import Path
from typing import Any

from mmdet.models.detectors import SemiBaseDetector
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from mmengine.runner.checkpoint import load_state_dict
from torch import nn

from ..datasets import check_inputs
from ..engine.checkpoint_files import check_checkpoint_fits, load_checkpoint_file
from ..errors import InputError
from ..fileio import atomic_folder, check_writable_folder
from . import runtime
from .comparison import Agreement, compare, config_images, measure_speed
from .evaluation import evaluate
from .export_settings import ExportSettings
from .exported_detector import ExportedDetector, load_exported
from .formats import (
    FILES,
    build_graph,
    check_format,
    write_onnx,
    write_openvino,
    write_torchscript,
)
from .metadata import describe
from .quantization import calibration_batches, quantize

REPORT = 'report.json'


def export(cfg: Config, checkpoint: str, out: str, settings: ExportSettings) -> dict[str, Any]:
    """Export a trained model into a folder, written atomically, and compare it with PyTorch's.

    Args:
        cfg: Its config.
        checkpoint: Path of its checkpoint.
        out: The folder. One that holds a previous export is replaced.
        settings: What to do.

    Returns:
        What is written to report.json.

    Raises:
        InputError: Something cannot be exported, or the exported model disagrees with PyTorch's.
    """
    check_format(settings.model_format, settings.precision)
    _check_out(Path(out))
    register_all_modules(init_default_scope=False)
    init_default_scope('mmdet')
    if settings.num_images or settings.measure_ap:
        check_inputs(cfg, 'test')
    detector = build_detector(cfg, checkpoint)
    graph = build_graph(detector, settings.model_format, settings.precision)
    heads = detector.roi_head.mask_head
    num_classes = (heads[-1] if isinstance(heads, nn.ModuleList) else heads).num_classes
    metadata = describe(cfg, checkpoint, settings.model_format, settings.precision, num_classes)
    with atomic_folder(out) as folder:
        path = folder / FILES[settings.model_format]
        if settings.model_format == 'torchscript':
            write_torchscript(graph, path, metadata)
        else:
            _write_with_onnx(graph, detector, path, cfg, metadata, settings)
        shutil.copyfile(runtime.__file__, folder / 'runtime.py')
        print(f'{path.name} written: {sum(file.stat().st_size for file in folder.glob("model.*")) / 1e6:.1f} MB')
        report = dict(metadata=metadata, **_compare(cfg, detector, path, settings))
        (folder / REPORT).write_text(json.dumps(report, indent=2))
    print(f'{out}: model and runtime.py, run it by `python {out}/runtime.py {out} IMAGE_OR_FOLDER`')
    return report


def build_detector(cfg: Config, checkpoint: str) -> nn.Module:
    """Build a config's detector, with the weights of a checkpoint, in evaluation mode.

    Of a semi-supervised one, this is the teacher or student that its ``semi_test_cfg.predict_on`` names.

    Raises:
        InputError: The checkpoint cannot be read, or is another model's.
    """
    content = load_checkpoint_file(checkpoint)
    # Building is logged parameter by parameter, and the weights come from the checkpoint.
    MMLogger.get_current_instance().setLevel('ERROR')
    if 'backbone' in cfg.model:
        cfg.model.backbone.init_cfg = None
    detector = MODELS.build(cfg.model)
    check_checkpoint_fits(content, checkpoint, detector)
    load_state_dict(detector, content.get('state_dict', content))
    if isinstance(detector, SemiBaseDetector):
        detector = getattr(detector, detector.semi_test_cfg.get('predict_on', 'teacher'))
    return detector.eval().requires_grad_(False)


def _write_with_onnx(
    graph: nn.Module, detector: nn.Module, path: Path, cfg: Config, metadata: dict, settings: ExportSettings
) -> None:
    onnx_path = path if path.suffix == '.onnx' and settings.precision != 'int8' else path.with_name('float.onnx')
    # Before the long export: there may be no such images.
    batches = calibration_batches(cfg, settings.num_calibration_images) if settings.precision == 'int8' else iter(())
    write_onnx(graph, onnx_path, metadata)
    if settings.precision == 'int8':
        quantize(onnx_path, path, detector, batches, metadata)
    elif path.suffix == '.xml':
        write_openvino(onnx_path, path, metadata)
    if onnx_path != path:
        onnx_path.unlink()


def _compare(cfg: Config, detector: nn.Module, path: Path, settings: ExportSettings) -> dict[str, Any]:
    report: dict[str, Any] = {}
    model = load_exported(str(path), settings.num_threads)
    if settings.num_images:
        agreement: Agreement = compare(detector, model, config_images(cfg, settings.num_images), settings.precision)
        report['agreement'] = agreement._asdict()
        print(f'agreement with PyTorch: {agreement}')
        if settings.num_runs:
            batch = next(config_images(cfg, 1))
            seconds = measure_speed(detector, {settings.model_format: model}, batch, settings.num_runs)
            report['seconds'] = seconds
            torch_time, own_time = seconds['PyTorch'], seconds[settings.model_format]
            print(
                f'speed: {own_time * 1000:.0f} ms an image, PyTorch {torch_time * 1000:.0f} ms; '
                f'share {own_time / torch_time:.2f}'
            )
    if settings.measure_ap:
        exported = ExportedDetector(str(path), cfg.model.data_preprocessor, num_threads=settings.num_threads).eval()
        report['metrics'] = dict(pytorch=evaluate(cfg, detector), exported=evaluate(cfg, exported))
        for name, value in report['metrics']['pytorch'].items():
            print(f'{name}: {value:.4f} before, {report["metrics"]["exported"][name]:.4f} after')
    return report


def _check_out(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise InputError(f'--out {out} is no folder')
    if out.is_dir() and any(out.iterdir()) and not (out / REPORT).is_file():
        raise InputError(f'--out {out} holds something else than an export, name a new folder')
    check_writable_folder(out.absolute().parent, '--out')
