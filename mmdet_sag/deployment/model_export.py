import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mmdet.models.detectors import SemiBaseDetector
from mmdet.registry import EVALUATOR, MODELS
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.model import BaseModel
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmengine.runner.checkpoint import load_state_dict
from torch import nn

from ..checks import check_inputs
from ..checks.packages import check_scope
from ..datasets.data_sources import config_images, test_dataset
from ..engine.checkpoint_files import check_checkpoint_fits, load_checkpoint_file
from ..errors import InputError
from ..fileio import atomic_folder, check_writable_folder, sha256
from ..models.model_config import type_name
from . import runtime
from .comparison import compare, detect_with_pytorch, measure_speed, preprocess
from .exported_detector import ExportedDetector, fit_images, model_inputs
from .formats import FORMATS, load_predictor
from .graphs import build_graph
from .graphs.padded_graph import PaddedGraph
from .graphs.panoptic_centermask_graph import PanopticCenterMaskGraph
from .graphs.preprocessed_graph import PreprocessedGraph
from .graphs.segmentation_graph import SegmentationGraph
from .metadata import describe
from .onnx_operators import OPSET_VERSION, ExportableDeformConv, ExportableSAConv
from .quantization import calibration_batches
from .semantic_comparison import compare_segmentation, segment_with_pytorch


class ExportSettings(NamedTuple):
    """What an export does.

    Attributes:
        model_format: Name of one of :data:`FORMATS`.
        precision: ``fp32``, ``fp16``, ``bf16`` or ``int8``.
        num_images: Test images on which the model is compared with PyTorch's; 0: do not compare.
        num_calibration_images: Training images that int8 is calibrated on.
        num_runs: Measured runs of each model; 0: do not measure.
        num_threads: Threads of the exported model while it is compared; 0: one per core.
        measure_ap: Whether both models are evaluated on all test data.
        num_detections: Detections of each image that the outputs are padded to; None: outputs of any length.
        opset: Opset of an ONNX file.
        input_size: Height and width of the images that the model takes; None: any.
        prepares_images: Whether the model itself resizes, to fit into ``input_size``, and normalizes images.
    """

    model_format: str = 'onnx'
    precision: str = 'fp32'
    num_images: int = 20
    num_calibration_images: int = 300
    num_runs: int = 5
    num_threads: int = 0
    measure_ap: bool = False
    num_detections: int | None = None
    opset: int = OPSET_VERSION
    input_size: tuple[int, int] | None = None
    prepares_images: bool = False


def export(cfg: Config, checkpoint: str, out: str, settings: ExportSettings) -> dict[str, Any]:
    """Export a trained model into a folder, written atomically, and compare it with PyTorch's.

    A previous export in ``out`` is replaced, if nothing else is there.

    Returns:
        The content of report.json.

    Raises:
        InputError: Something cannot be exported, or the exported model disagrees with PyTorch's.
    """
    model_format, precision = FORMATS[settings.model_format], settings.precision
    model_format.check(precision)
    if settings.prepares_images and (settings.input_size is None or precision == 'int8'):
        reason = 'cannot be quantized: leave it out' if precision == 'int8' else 'needs one size: give --input-size H W'
        raise InputError(f'--preprocessing {reason}')
    _check_out(Path(out))
    register_all_modules(init_default_scope=False)
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    if settings.num_images or settings.measure_ap:
        check_inputs(cfg, 'test')
    fit_images(cfg, settings.input_size)
    if settings.num_detections:
        _limit_detections(cfg, settings.num_detections)
    detector = build_detector(cfg, checkpoint)
    graph = build_graph(detector, model_format.precisions[precision])
    if isinstance(graph, (PanopticCenterMaskGraph, SegmentationGraph)):
        kind = 'panoptic models' if isinstance(graph, PanopticCenterMaskGraph) else 'segmentors'
        for option, value in (
            ('--detections', settings.num_detections),
            ('--preprocessing', settings.prepares_images),
            ('--precision int8', precision == 'int8'),
            ('--input-size', settings.input_size and kind == 'segmentors'),
        ):
            if value:
                raise InputError(f'{option}: {kind} are exported without it, leave it out')
    metadata = describe(cfg, checkpoint, model_format.name, precision, num_classes_of(detector))
    if model_format.name == 'onnx':
        metadata['opset'] = settings.opset
        deformable = any(isinstance(module, (ExportableDeformConv, ExportableSAConv)) for module in graph.modules())
        metadata['requires'] = dict(onnxruntime='1.25') if deformable else {}
    if settings.input_size:
        divisor = metadata['preprocessing']['pad_size_divisor']
        if any(side % divisor for side in settings.input_size):
            sides = ' '.join(str(max(round(side / divisor), 1) * divisor) for side in settings.input_size)
            raise InputError(f'--input-size: sides have to be multiples of {divisor}; use --input-size {sides}')
        metadata['input_size'] = list(settings.input_size)
    if settings.num_detections:
        metadata['detections'] = settings.num_detections
        graph = PaddedGraph(graph, settings.num_detections)
    if settings.prepares_images:
        metadata['runtime_version'], metadata['preprocessing']['in_graph'] = 2, True
        graph = PreprocessedGraph(graph, metadata['preprocessing'], settings.input_size)
    # Before the long export: there may be no such images.
    batches = calibration_batches(cfg, settings.num_calibration_images) if precision == 'int8' else tuple

    def images() -> Iterator[tuple]:
        return (model_inputs(*preprocess(detector, batch, settings.input_size)) for batch in batches())

    with atomic_folder(out) as folder:
        path = folder / f'model{model_format.suffix}'
        model_format.write(graph, path, metadata, images)
        shutil.copyfile(runtime.__file__, folder / 'runtime.py')
        print(f'{path.name} written: {sum(file.stat().st_size for file in folder.glob("model.*")) / 1e6:.1f} MB')
        report = dict(metadata=metadata, **_compare(cfg, detector, path, settings))
        report['files'] = {file.name: sha256(file) for file in sorted(folder.iterdir())}
        (folder / runtime.REPORT).write_text(json.dumps(report, indent=2))
        # In the meantime, other files may have come there.
        _check_out(Path(out), folder.parent)
    print(f'{out}: model and runtime.py, run it by `python {out}/runtime.py {out} IMAGE_OR_FOLDER`')
    return report


def build_detector(cfg: Config, checkpoint: str) -> nn.Module:
    """Build a config's detector, or segmentor of MMSegmentation, with the weights of a checkpoint, in evaluation mode.

    Of a semi-supervised one, this is the teacher or student that its ``semi_test_cfg.predict_on`` names.

    Raises:
        InputError: The checkpoint cannot be read or belongs to another model, or the config's package is missing.
    """
    check_scope(cfg.get('default_scope', 'mmdet'))
    content = load_checkpoint_file(checkpoint)
    # Building logs every parameter, and the weights come from the checkpoint.
    MMLogger.get_current_instance().setLevel('ERROR')
    if 'backbone' in cfg.model:
        cfg.model.backbone.init_cfg = None
    detector = MODELS.build(cfg.model)
    check_checkpoint_fits(content, checkpoint, detector)
    load_state_dict(detector, content.get('state_dict', content))
    if isinstance(detector, SemiBaseDetector):
        detector = getattr(detector, detector.semi_test_cfg.get('predict_on', 'teacher'))
    return detector.eval().requires_grad_(False)


def num_classes_of(detector: nn.Module) -> int:
    """Number of classes of a detector, with those of stuff, or of a segmentor."""
    if hasattr(detector, 'panoptic_fusion_head'):
        return detector.panoptic_fusion_head.num_classes
    if hasattr(detector, 'decode_head'):
        return detector.decode_head.num_classes
    heads = detector.roi_head.mask_head if hasattr(detector, 'roi_head') else detector.bbox_head
    return (heads[-1] if isinstance(heads, nn.ModuleList) else heads).num_classes


def _compare(cfg: Config, detector: nn.Module, path: Path, settings: ExportSettings) -> dict[str, Any]:
    report: dict[str, Any] = {}
    predictor = load_predictor(str(path), settings.num_threads)
    is_segmentor = 'semantic' in predictor.metadata
    if settings.num_images:
        batches = config_images(cfg, settings.num_images)
        load = next(step for step in test_dataset(cfg).pipeline if type_name(step) == 'LoadImageFromFile')
        compare_outputs = compare_segmentation if is_segmentor else compare
        agreement = compare_outputs(detector, predictor, batches, settings.precision, load.get('backend_args'))
        report['agreement'] = agreement._asdict()
        print(f'agreement with PyTorch: {agreement}')
        if settings.num_runs:
            batch = next(config_images(cfg, 1))
            run_pytorch = segment_with_pytorch if is_segmentor else detect_with_pytorch
            models = {settings.model_format: predictor.model}
            seconds = measure_speed(detector, models, batch, settings.num_runs, run_pytorch=run_pytorch)
            report['seconds'] = seconds
            theirs, own = seconds['PyTorch'] * 1000, seconds[settings.model_format] * 1000
            print(f'speed: {own:.0f} ms an image, PyTorch {theirs:.0f} ms; share {own / theirs:.2f}')
    if settings.measure_ap:
        exported = ExportedDetector(str(path), cfg.model.data_preprocessor, num_threads=settings.num_threads).eval()
        report['metrics'] = dict(pytorch=evaluate(cfg, detector), exported=evaluate(cfg, exported))
        for name, value in report['metrics']['pytorch'].items():
            print(f'{name}: {value:.4f} before, {report["metrics"]["exported"][name]:.4f} after')
    return report


def evaluate(cfg: Config, model: BaseModel) -> dict[str, Any]:
    """Evaluate a model on the test data of a config, with the config's evaluator."""
    loader = Runner.build_dataloader(cfg.test_dataloader)
    # As the runner does: one with `metrics` may be of another type.
    metrics = cfg.test_evaluator
    own = metrics if 'metrics' in metrics else dict(metrics=metrics)
    evaluator = EVALUATOR.build(own, default_args=dict(type='Evaluator'))
    evaluator.dataset_meta = loader.dataset.metainfo
    for batch in loader:
        evaluator.process(data_samples=model.test_step(batch), data_batch=batch)
    return evaluator.evaluate(len(loader.dataset))


def _limit_detections(cfg: Config, num_detections: int) -> None:
    model = cfg.model.get('detector', cfg.model)
    limits = model.get('test_cfg') or {}
    limits = limits.get('bbox_head') or limits.get('rcnn') or limits
    if 'max_per_img' in limits:
        limits.max_per_img = min(limits.max_per_img, num_detections)


def _check_out(out: Path, partial: Path | None = None) -> None:
    """Refuse a folder that has anything that no export wrote there, besides the export that is being written."""
    if out.exists() and not out.is_dir():
        raise InputError(f'--out {out} is no folder')
    check_writable_folder(out, '--out')
    # Python writes the latter when a program imports the runtime.
    own = out / partial.name if partial else None
    files = (path for path in out.rglob('*') if own not in (path, *path.parents))
    paths = {str(path.relative_to(out)): path for path in files if path.parent.name != '__pycache__'}
    paths.pop('__pycache__', None)
    report = paths.pop(runtime.REPORT, None)
    if report is None and not paths:
        return
    try:
        sums = dict(json.loads(report.read_text())['files'])
    except (AttributeError, OSError, ValueError, TypeError, KeyError):
        sums = {}
    for name in sorted(paths.keys() | sums):
        path = out / name
        if name not in sums or not path.is_file() or sha256(path) != sums[name]:
            raise InputError(
                f'--out {out}: {name} was not written by an export, or changed since, and would be deleted; name a new '
                'folder'
            )
    if not sums:
        raise InputError(f'--out {out}: {runtime.REPORT} was not written by an export; name a new folder')
