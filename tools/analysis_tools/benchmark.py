"""Measure the speed of models side by side, stage by stage, or of masks' post-processing alone.

Models run in turns in one process, on one image, with random weights unless checkpoints are given. Each is a config
file, ours or MMDetection's (``mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py``), and may have options behind a plus:

  +plain      as the config builds it, without what tools/test.py or FastTrainingHook prepare a model with
  +direct     without Winograd's convs
  +compile    torch.compile of backbone and neck
  +amp        bfloat16 on a CPU, float16 on CUDA

A model of MMDetection runs plain unless it has +compile or +amp.
"""

import argparse
import ctypes
import gc
import json
import platform
import statistics
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import torch

# Before mmdet: in a clone that is not installed, this finds the operators that mmdet wants.
import mmdet_sag  # noqa: F401

# isort: split
from mmcv.transforms import Compose
from mmdet.models.dense_heads import base_dense_head, rpn_head
from mmdet.models.layers import bbox_nms
from mmdet.models.roi_heads.mask_heads.fcn_mask_head import FCNMaskHead
from mmdet.registry import MODELS, TRANSFORMS
from mmdet.structures.mask import PolygonMasks, encode_mask_results
from mmdet.utils import register_all_modules
from mmengine.config import Config, ConfigDict
from mmengine.logging import MMLogger
from mmengine.runner import load_checkpoint
from mmengine.structures import InstanceData
from torch.utils.flop_counter import FlopCounterMode

from mmdet_sag.command_line import run_command
from mmdet_sag.datasets.data_sources import innermost_dataset
from mmdet_sag.engine.fast_inference import speed_up
from mmdet_sag.engine.fast_training import speed_up_training
from mmdet_sag.engine.stage_timer import StageTimer
from mmdet_sag.errors import InputError
from mmdet_sag.fileio import check_writable_folder
from mmdet_sag.models.dense_heads import centermask_fcos_head
from mmdet_sag.models.detectors import CenterMask
from mmdet_sag.models.roi_heads.mask_heads.sag_mask_head import SAGMaskHead
from mmdet_sag.structures.mask import RLEMasks

matplotlib.use('Agg')
import matplotlib.pyplot as plt

STAGES = (
    'data',
    'backbone',
    'neck',
    'box head',
    'NMS',
    'RoIAlign',
    'mask head',
    'MaskIoU',
    'post-processing',
    'encoding',
    'other',
)
OPTIONS = ('plain', 'direct', 'compile', 'amp')
GROWTH = dict(size='short side of the image', detections='detections', batch='images at a time')


class Candidate(NamedTuple):
    """A model to measure.

    Attributes:
        name: What the results call it.
        run: Runs one image, or one training step.
        timer: Has the stages of the last run.
        num_images: Images of one run.
        facts: ``parameters``, and for inference the input's size and ``gflops``.
    """

    name: str
    run: Callable[[], Any]
    timer: StageTimer
    num_images: int
    facts: dict


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('models', nargs='*', metavar='CONFIG[+OPTION...]', help='models; ratios are to the first')
    parser.add_argument('--checkpoints', nargs='+', default=[], help='checkpoint of each model, or none')
    parser.add_argument('--image', help='image file; without one, noise of the size --size')
    parser.add_argument('--size', type=int, nargs=2, default=(480, 640), metavar=('H', 'W'), help='size of the noise')
    parser.add_argument(
        '--detections', type=int, default=50, help='that many fixed boxes and masks replace those found; 0: do not'
    )
    parser.add_argument('--train', action='store_true', help='training steps instead')
    parser.add_argument('--batch-size', type=int, help='images at a time; default: 2 in training, 1 otherwise')
    parser.add_argument(
        '--grow',
        nargs='+',
        metavar='AXIS=N,N,...',
        default=[],
        help='measure at each value of an axis, and draw how time and memory grow; axes: size (short side of an image '
        'of 3:4, which is not resized then), detections, batch',
    )
    parser.add_argument(
        '--masks', nargs='+', metavar='HxW', default=[], help="masks' post-processing alone, e.g. 800x1333"
    )
    parser.add_argument('--num-masks', type=int, default=100, help='masks of --masks')
    parser.add_argument('--runs', type=int, default=10, help='measured runs of each')
    parser.add_argument('--warmup', type=int, default=2, help='runs before those')
    parser.add_argument('--threads', type=int, help='threads of torch')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu', help='device')
    parser.add_argument('--out-dir', default='work_dirs/benchmark', help='folder that gets benchmark.json and .png')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    if not args.models and not args.masks:
        raise InputError('nothing to measure: name a config, or sizes of images with --masks')
    if args.checkpoints and len(args.checkpoints) != len(args.models):
        raise InputError(f'{len(args.models)} models, but {len(args.checkpoints)} checkpoints: give one for each')
    if args.runs < 1:
        raise InputError(f'--runs {args.runs}: at least one run is needed')
    if args.grow and not args.models:
        raise InputError('--grow: name the configs to measure')
    growth = dict(_axis(text) for text in args.grow)
    args.resize = True
    if args.batch_size is None:
        args.batch_size = 2 if args.train else 1
    check_writable_folder(args.out_dir, '--out-dir')
    if args.threads:
        torch.set_num_threads(args.threads)
    register_all_modules()
    # Initialization is logged parameter by parameter.
    MMLogger.get_current_instance().setLevel('ERROR')
    report = dict(
        date=date.today().isoformat(),
        machine=_cpu_name(),
        device=torch.cuda.get_device_name() if args.device.startswith('cuda') else 'cpu',
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        settings={key: value for key, value in vars(args).items() if key != 'models'},
        models=[],
        masks=[],
        growth={},
    )
    out_dir = Path(args.out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    for size in args.masks:
        report['masks'].append(measure_masks(_size(size), args))
        print(_masks_line(report['masks'][-1]), flush=True)
    checkpoints = args.checkpoints or [None] * len(args.models)

    def measure_models(args: argparse.Namespace) -> list[dict]:
        results = measure([make_candidate(*pair, args) for pair in zip(args.models, checkpoints)], args)
        print(_table(results), flush=True)
        return results

    if args.models and not growth:
        report['models'] = measure_models(args)
        draw(report['models'], out_dir / 'benchmark.png')
    for axis, values in growth.items():
        points = []
        for value in values:
            print(f'{GROWTH[axis]}: {value}', flush=True)
            points.append(dict(value=value, models=measure_models(_at(args, axis, value))))
        report['growth'][axis] = points
        draw_growth(axis, points, out_dir / f'growth_{axis}.png')
    (out_dir / 'benchmark.json').write_text(json.dumps(report, indent=2))
    print(f'{out_dir}/benchmark.json')


def make_candidate(spec: str, checkpoint: str | None, args: argparse.Namespace) -> Candidate:
    """Build a model and what runs it."""
    path, *options = spec.split('+')
    if unknown := set(options) - set(OPTIONS):
        raise InputError(f'{spec}: unknown option {sorted(unknown)[0]}, choose from {", ".join(OPTIONS)}')
    cfg = _read_config(path)
    device = torch.device(args.device)
    if 'backbone' in cfg.model:
        cfg.model.backbone.init_cfg = None
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    if checkpoint and checkpoint != 'none':
        load_checkpoint(model, checkpoint, map_location='cpu')
    model.to(device)
    if not (hasattr(model, 'roi_head') and model.roi_head.with_mask):
        raise InputError(f'{path}: {type(model).__name__} has no RoI head with masks, which is what is measured here')
    facts = dict(parameters=sum(p.numel() for p in model.parameters()))
    timer = StageTimer(device)
    amp = torch.autocast(device.type, enabled='amp' in options, dtype=None)
    image = _read_image(args)

    ours = isinstance(model, CenterMask)
    if args.train:
        if ours and 'plain' not in options:
            speed_up_training(model, winograd='direct' not in options)
        run = _training_step(model.train(), image, cfg, args, amp, timer)
        return Candidate(spec, run, timer, args.batch_size, facts)

    model.eval()
    if args.detections:
        _fix_detections(model, args.detections)
        _fix_masks(model.roi_head.mask_head)
    pipeline = _test_pipeline(cfg, args.resize)

    def load() -> dict:
        samples = [pipeline(_loaded(image)) for _ in range(args.batch_size)]
        return {key: [sample[key] for sample in samples] for key in ('inputs', 'data_samples')}

    @torch.inference_mode()
    def run() -> list:
        with timer.stage('data'):
            batch = load()
        with timer.stage('other'), amp:
            predictions = [sample.pred_instances.masks for sample in model.test_step(batch)]
            with timer.stage('encoding'):
                return [
                    list(masks) if isinstance(masks, RLEMasks) else encode_mask_results(masks.cpu().numpy())
                    for masks in predictions
                ]

    facts['input'] = list(load()['inputs'][0].shape[1:])
    # Of the model as it is, whatever computes it faster.
    with FlopCounterMode(display=False) as counter:
        run()
    facts['gflops'] = counter.get_total_flops() / args.batch_size / 1e9
    if 'plain' not in options and (ours or 'compile' in options):
        speed_up(model, winograd='direct' not in options, compile='compile' in options)
    _watch(model, timer)
    return Candidate(spec, run, timer, args.batch_size, facts)


def measure(candidates: list[Candidate], args: argparse.Namespace) -> list[dict]:
    """Run all candidates in turns."""
    seconds: dict[str, list[dict]] = {candidate.name: [] for candidate in candidates}
    for i in range(args.warmup + args.runs):
        for candidate in candidates:
            candidate.timer.reset()
            candidate.run()
            if i >= args.warmup:
                seconds[candidate.name].append(dict(candidate.timer.seconds))
    results = []
    for candidate in candidates:
        runs = seconds[candidate.name]
        totals = [sum(value for stage, value in run.items() if stage != 'data') for run in runs]
        median = statistics.median(totals)
        results.append(
            dict(
                model=candidate.name,
                total=_spread(totals),
                images_per_s=candidate.num_images / median,
                stages={
                    stage: _spread([run.get(stage, 0.0) for run in runs])
                    for stage in STAGES
                    if any(stage in run for run in runs)
                },
                extra_memory_mb=_extra_memory(candidate.run, args.device),
                **candidate.facts,
            )
        )
        # Each run of a pair meets the same machine: the median of the ratios is steadier than the ratio of medians.
        first = [sum(v for k, v in run.items() if k != 'data') for run in seconds[candidates[0].name]]
        results[-1]['share_of_first'] = statistics.median(total / one for total, one in zip(totals, first))
    return results


def measure_masks(size: tuple[int, int], args: argparse.Namespace) -> dict:
    """Time and memory from the probabilities of masks to COCO's encoding, MMDetection's way and ours."""
    height, width = size
    logits = _blobs(args.num_masks, (28, 28)).to(args.device)
    boxes = _boxes(args.num_masks, height, width).to(args.device)
    labels = torch.zeros(len(boxes), dtype=torch.long, device=args.device)
    meta = dict(ori_shape=size, scale_factor=(1.0, 1.0))
    test_cfg = ConfigDict(mask_thr_binary=0.5, rle_masks=True)
    head = SAGMaskHead(num_classes=1)

    def post_process(predict: Callable) -> Any:
        return predict(head, logits, boxes.clone(), labels, meta, test_cfg, rescale=True)

    ways = dict(
        mmdetection=lambda: encode_mask_results(post_process(FCNMaskHead._predict_by_feat_single).cpu().numpy()),
        ours=lambda: list(post_process(SAGMaskHead._predict_by_feat_single)),
    )
    # What is loaded at the first use of anything is no memory of the work itself.
    small = boxes[:2] * 0.1
    head._predict_by_feat_single(logits[:2], small, labels[:2], dict(meta, ori_shape=(80, 80)), test_cfg, rescale=True)
    memory = {name: _extra_memory(way, args.device, warm_up=False) for name, way in reversed(ways.items())}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(args.runs):
        masks = []
        for name, way in ways.items():
            start = time.perf_counter()
            masks.append(way())
            seconds[name].append(time.perf_counter() - start)
        if masks[0] != masks[1]:
            raise RuntimeError('the two ways give different masks')
    ratio = statistics.median(a / b for a, b in zip(seconds['mmdetection'], seconds['ours']))
    return dict(
        size=list(size),
        num_masks=len(boxes),
        covered=((boxes[:, 2:] - boxes[:, :2]).prod(1).mean() / (height * width)).item(),
        seconds={name: _spread(values) for name, values in seconds.items()},
        times_faster=ratio,
        extra_memory_mb=memory,
    )


def draw(results: list[dict], out_file: Path) -> None:
    """Draw the stages' medians as one bar per model."""
    figure, axes = plt.subplots(figsize=(9, 1.2 + 0.6 * len(results)), dpi=120, layout='constrained')
    left = np.zeros(len(results))
    for stage, colour in zip(STAGES, plt.get_cmap('tab20').colors):
        values = np.array([result['stages'].get(stage, dict(median=0))['median'] * 1000 for result in results])
        if stage != 'data' and values.any():
            axes.barh([_label(result) for result in results], values, left=left, label=stage, color=colour)
            left += values
    axes.invert_yaxis()
    axes.set_xlabel('ms per run, median of each stage')
    axes.legend(ncols=2, fontsize=8, loc='upper left', bbox_to_anchor=(1, 1), frameon=False)
    figure.savefig(out_file)
    plt.close(figure)


def draw_growth(axis: str, points: list[dict], out_file: Path) -> None:
    """Draw time per image and memory of each model over the values of an axis."""
    figure, (time_axes, memory_axes) = plt.subplots(1, 2, figsize=(9, 3.6), dpi=120, layout='constrained')
    values = [point['value'] for point in points]
    for results in zip(*(point['models'] for point in points)):
        label = _label(results[0])
        time_axes.plot(values, [1000 / result['images_per_s'] for result in results], marker='o', label=label)
        if results[0]['extra_memory_mb'] is not None:
            memory_axes.plot(values, [result['extra_memory_mb'] for result in results], marker='o')
    for axes, title in ((time_axes, 'ms per image'), (memory_axes, 'MB beyond the model')):
        axes.set_title(title, fontsize=10)
        axes.set_xlabel(GROWTH[axis])
        axes.set_xticks(values)
        axes.set_ylim(bottom=0)
    figure.legend(loc='outside lower center', ncols=2, fontsize=8, frameon=False)
    figure.savefig(out_file)
    plt.close(figure)


def _axis(text: str) -> tuple[str, list[int]]:
    axis, _, values = text.partition('=')
    values = values.split(',')
    if axis not in GROWTH or not all(value.isdigit() and int(value) for value in values):
        raise InputError(f'--grow {text}: write an axis, {", ".join(GROWTH)}, and its values as in detections=1,50,100')
    return axis, [int(value) for value in values]


def _at(args: argparse.Namespace, axis: str, value: int) -> argparse.Namespace:
    """The arguments at a value of an axis."""
    if axis == 'size':
        changes = dict(size=(value, round(value * 4 / 3)), image=None, resize=False)
    else:
        changes = dict(detections=value) if axis == 'detections' else dict(batch_size=value)
    return argparse.Namespace(**{**vars(args), **changes})


def _watch(model: torch.nn.Module, timer: StageTimer) -> None:
    """Tell the timer where the stages of a detector are."""
    features = getattr(model, 'extract_feat', None)
    fast = [cell.cell_contents for cell in getattr(features, '__closure__', None) or ()]
    layers = next((part.layers for part in fast if isinstance(part, torch.nn.Module)), None)
    backbone, neck = layers if layers is not None else (model.backbone, model.neck)
    timer.watch(model.data_preprocessor, 'forward', 'data')
    timer.watch(backbone, 'forward', 'backbone')
    timer.watch(neck, 'forward', 'neck')
    for name in ('bbox_head', 'rpn_head'):
        if getattr(model, name, None) is not None:
            timer.watch(getattr(model, name), 'predict', 'box head')
    roi_head = model.roi_head
    if getattr(roi_head, 'with_bbox', False):
        timer.watch(roi_head, 'predict_bbox', 'box head')
        timer.watch(roi_head.bbox_roi_extractor, 'forward', 'RoIAlign')
    timer.watch(roi_head.mask_roi_extractor, 'forward', 'RoIAlign')
    timer.watch(roi_head.mask_head, 'forward', 'mask head')
    if isinstance(roi_head.mask_head, SAGMaskHead):
        timer.watch(roi_head.mask_head, 'forward_of_class', 'mask head')
    timer.watch(roi_head.mask_head, 'predict_by_feat', 'post-processing')
    if getattr(roi_head, 'mask_iou_head', None) is not None:
        timer.watch(roi_head.mask_iou_head, 'forward', 'MaskIoU')
    for module, name in (
        (base_dense_head, 'batched_nms'),
        (rpn_head, 'batched_nms'),
        (bbox_nms, 'batched_nms'),
        (centermask_fcos_head, 'class_by_class_nms'),
    ):
        timer.watch(module, name, 'NMS')


def _fix_detections(model: torch.nn.Module, count: int) -> None:
    """Let the box head's work be done, and then replace what it found."""
    ours = isinstance(model, CenterMask)
    owner, name = (model.bbox_head, 'predict') if ours else (model.roi_head, 'predict_bbox')
    predict = getattr(owner, name)
    # CenterMask asks for boxes in pixels of the network's input, Mask R-CNN as it needs them for its masks.
    samples_at = 1

    def predict_fixed(*args, **kwargs):
        results_list = predict(*args, **kwargs)
        metas = args[samples_at]
        for i, results in enumerate(results_list):
            meta = metas[i] if isinstance(metas[i], dict) else metas[i].metainfo
            boxes = _boxes(count, *meta['img_shape'][:2]).to(results.bboxes.device)
            results_list[i] = InstanceData(
                bboxes=boxes,
                scores=torch.linspace(0.9, 0.1, count, device=boxes.device),
                labels=torch.arange(count, device=boxes.device) % 80 % _num_classes(model),
            )
        return results_list

    setattr(owner, name, predict_fixed)


def _fix_masks(head: torch.nn.Module) -> None:
    """Let the mask head's work be done, and then replace its logits: those of random weights are noise."""
    for name in ('forward', 'forward_of_class'):
        if hasattr(head, name):
            setattr(head, name, _with_blobs(getattr(head, name)))


def _with_blobs(predict: Callable) -> Callable:
    def predict_blobs(*args, **kwargs):
        logits = predict(*args, **kwargs)
        return _blobs(len(logits), logits.shape[2:]).to(logits).expand_as(logits)

    return predict_blobs


def _blobs(count: int, size: tuple[int, int]) -> torch.Tensor:
    """Mask logits (n, 1, h, w) with smooth outlines, as trained weights give them, but more of them."""
    generator = torch.Generator().manual_seed(count)
    logits = torch.randn(count, 1, 5, 5, generator=generator) * 4
    return torch.nn.functional.interpolate(logits, tuple(size), mode='bicubic')


def _training_step(
    model: torch.nn.Module, image: np.ndarray, cfg: Config, args: argparse.Namespace, amp: Any, timer: StageTimer
) -> Callable[[], None]:
    sample = _test_pipeline(cfg, args.resize)(_loaded(image))
    height, width = sample['inputs'].shape[1:]
    boxes = _boxes(10, height, width)
    polygons = [[np.array([x1, y1, x2, y1, x2, y2, x1, y2], float)] for x1, y1, x2, y2 in boxes.tolist()]
    masks = PolygonMasks(polygons, height, width)
    pipeline = innermost_dataset(cfg.train_dataloader.dataset).pipeline
    if any(step.type == 'LoadAnnotations' and step.get('poly2mask', True) for step in pipeline):
        masks = masks.to_bitmap()
    sample['data_samples'].gt_instances = InstanceData(
        bboxes=boxes, labels=torch.arange(len(boxes)) % _num_classes(model), masks=masks
    )
    sample['data_samples'].ignored_instances = InstanceData(
        bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long), masks=masks[[]]
    )

    def run() -> None:
        with timer.stage('data'):
            batch = dict(
                inputs=[sample['inputs']] * args.batch_size,
                data_samples=[sample['data_samples'].clone() for _ in range(args.batch_size)],
            )
            batch = model.data_preprocessor(batch, True)
        with timer.stage('other'):
            with amp:
                loss, _ = model.parse_losses(model(**batch, mode='loss'))
            loss.backward()
            model.zero_grad()

    return run


def _boxes(count: int, height: int, width: int) -> torch.Tensor:
    """Boxes in an image, most of them small, as in photographs."""
    generator = torch.Generator().manual_seed(count)
    image = torch.tensor([width, height])
    sides = torch.rand(count, 2, generator=generator) ** 2 * 0.8 * image + 8
    centres = torch.rand(count, 2, generator=generator) * image
    boxes = torch.cat([centres - sides / 2, centres + sides / 2], dim=1)
    return torch.minimum(boxes.clamp(min=0), image.repeat(2).float())


def _num_classes(model: torch.nn.Module) -> int:
    return model.roi_head.mask_head.num_classes


def _test_pipeline(cfg: Config, resize: bool) -> Compose:
    """The test pipeline of a config from the loaded image on."""
    pipeline = innermost_dataset(cfg.test_dataloader.dataset).pipeline
    steps = [step for step in pipeline if not step['type'].startswith('Load')]
    return Compose([TRANSFORMS.build(step) for step in steps if resize or not step['type'].endswith('Resize')])


def _loaded(image: np.ndarray) -> dict:
    """What a pipeline has of an image after loading it."""
    shape = image.shape[:2]
    return dict(img=image, img_shape=shape, ori_shape=shape, scale_factor=(1.0, 1.0), img_path='')


def _read_config(path: str) -> Config:
    if path.startswith('mmdet::'):
        from mmengine.hub import get_config

        return get_config(path)
    if not Path(path).is_file():
        raise InputError(f'config {path} does not exist, check the path')
    return Config.fromfile(path)


def _read_image(args: argparse.Namespace) -> np.ndarray:
    if args.image is None:
        return np.random.default_rng(0).integers(0, 256, (*args.size, 3), dtype=np.uint8)
    import mmcv

    image = mmcv.imread(args.image) if Path(args.image).is_file() else None
    if image is None:
        raise InputError(f'image {args.image} cannot be read, check the path')
    return image


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.partition('x')
    if not (height.isdigit() and width.isdigit() and int(height) and int(width)):
        raise InputError(f'--masks {text}: write height and width as in 800x1333')
    return int(height), int(width)


def _spread(values: list[float]) -> dict:
    low, high = np.percentile(values, [25, 75]).tolist()
    return dict(median=statistics.median(values), low=low, high=high)


def _extra_memory(run: Callable, device: str, warm_up: bool = True) -> float | None:
    """Megabytes that a run takes at its peak beyond what is there before; None where this cannot be measured."""
    if warm_up:
        run()
    gc.collect()
    if device.startswith('cuda'):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    status = Path('/proc/self/status')
    if not status.exists():
        return None
    # Freed memory that the process still has would hide what a run takes.
    ctypes.CDLL(None).malloc_trim(0)
    Path('/proc/self/clear_refs').write_text('5')
    before = _status_kb(status, 'VmRSS')
    run()
    return (_status_kb(status, 'VmHWM') - before) * 1024 / 1e6


def _status_kb(status: Path, key: str) -> int:
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(key + ':'))


def _cpu_name() -> str:
    info = Path('/proc/cpuinfo')
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(':')[2].strip() for line in lines if line.startswith('model name')), platform.machine())


def _label(result: dict) -> str:
    path, *options = result['model'].split('+')
    return '+'.join([Path(path).stem, *options])


def _table(results: list[dict]) -> str:
    rows = [['ms', *(_label(result) for result in results)]]
    stages = [stage for stage in STAGES if any(stage in result['stages'] for result in results)]
    for stage in stages:
        rows.append([stage, *(_ms(result['stages'].get(stage)) for result in results)])
    rows.append(['total without data', *(_ms(result['total']) for result in results)])
    rows.append(['share of the first', *(f'{result["share_of_first"]:.2f}' for result in results)])
    rows.append(['images/s', *(f'{result["images_per_s"]:.2f}' for result in results)])
    rows.append(['extra memory, MB', *(_number(result['extra_memory_mb']) for result in results)])
    rows.append(['parameters, M', *(f'{result["parameters"] / 1e6:.1f}' for result in results)])
    rows.append(['GFLOPs', *(_number(result.get('gflops')) for result in results)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return '\n'.join(
        '  '.join(
            cell.ljust(width) if i == 0 else cell.rjust(width) for i, (cell, width) in enumerate(zip(row, widths))
        )
        for row in rows
    )


def _ms(spread: dict | None) -> str:
    if spread is None:
        return '-'
    return f'{spread["median"] * 1000:.1f} ({spread["low"] * 1000:.1f}-{spread["high"] * 1000:.1f})'


def _number(value: float | None) -> str:
    return '-' if value is None else f'{value:.0f}'


def _masks_line(result: dict) -> str:
    height, width = result['size']
    parts = [
        f'{name} {_ms(result["seconds"][name])} ms, {result["extra_memory_mb"][name] or 0:.1f} MB'
        for name in result['seconds']
    ]
    return f'{result["num_masks"]} masks on {height}x{width}: {"; ".join(parts)}; {result["times_faster"]:.1f} times'


if __name__ == '__main__':
    run_command(main)
