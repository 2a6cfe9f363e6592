"""Write a page on a model: its accuracy, its errors, the best score threshold, and problems of the data.

The page is one HTML file. The input is a checkpoint, which is evaluated, or predictions of mmdet-sag test --out, of any
instance segmentation model of MMDetection on data in COCO's format. Where objects have no mask, it compares boxes. Of a
model of MMSegmentation, it compares pixels; the input is a checkpoint. The best threshold of a detector's checkpoint is
kept in report.json beside it: mmdet-sag predict, test --show-dir and models exported from it then draw from that score
on.
"""

import argparse
import platform
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
import torch

# Before mmdet: it registers the operators that mmdet imports.
import mmdet_sag

# isort: split
import mmcv
import mmdet
from mmdet.visualization import get_palette
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

from mmdet_sag.analysis import (
    DataStatistics,
    GroundTruth,
    ImageResult,
    ReportPage,
    SegmentationPage,
    SegmentationResults,
    class_colours,
    load_results,
    read_scalars,
)
from mmdet_sag.checks import check_inputs
from mmdet_sag.command_line import HelpFormatter, run_command
from mmdet_sag.engine.checkpoint_files import (
    check_checkpoint_fits,
    last_instead_of_worthless_best,
    load_checkpoint_file,
)
from mmdet_sag.engine.launch import ConfigOptions, build_runner, load_config
from mmdet_sag.errors import InputError
from mmdet_sag.fileio import atomic_write, check_writable_file
from mmdet_sag.models.model_config import type_name
from mmdet_sag.visualization import AttentionRecorder, keep_score_thr


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument('config', help='config file')
    parser.add_argument('model', metavar='CHECKPOINT|RESULTS', help='checkpoint file, or .pkl of mmdet-sag test --out')
    parser.add_argument('--out', help='the page; default: report.html in the work folder')
    parser.add_argument('--score-thr', type=float, help='score threshold of errors and pictures; default: best F1')
    parser.add_argument('--num-images', type=int, default=6, help='pictures of each kind; default: %(default)s')
    parser.add_argument('--train-dir', help="work folder of the training; default: the checkpoint's folder")
    parser.add_argument('--work-dir', help="folder of the evaluation's log; default: the config's")
    parser.add_argument(
        '--cfg-options', nargs='+', action=ConfigOptions, help='settings that replace those of the config'
    )
    parser.set_defaults(launcher='none', local_rank=0)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    if args.score_thr is not None and not 0 <= args.score_thr <= 1:
        raise InputError(f'--score-thr {args.score_thr}: scores are between 0 and 1')
    if args.num_images < 0:
        raise InputError(f'--num-images {args.num_images}: give 0 or more')
    cfg = load_config(args)
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    out = Path(args.out or Path(cfg.work_dir, 'report.html'))
    check_writable_file(out, '--out', makes_folder=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    has_results = is_results(args.model)
    not_best = ''
    if not has_results:
        args.model, not_best = last_instead_of_worthless_best(args.model)
    if cfg.get('default_scope') == 'mmseg':
        report_segmentor(args, cfg, out, not_best)
        return
    # The page computes the metrics, and can be made again from the predictions beside it.
    predictions = dict(type='DumpRLEResults', out_file_path=str(out.with_suffix('.pkl')))
    runner = None if has_results else build_test(cfg, args.model, [predictions])
    truth = GroundTruth.of_config(cfg)
    if runner is not None:
        with torch.inference_mode():
            runner.test()
    results = load_results(args.model if has_results else out.with_suffix('.pkl'))
    check_results(results, truth, args.model)

    metainfo = cfg.test_dataloader.dataset.get('metainfo') or {}
    colours = class_colours(metainfo.get('palette'), len(truth.classes))
    page = ReportPage(truth, results, colours, args.score_thr, args.num_images)
    no_attention = 'For attention maps, make this report from the checkpoint instead of its predictions.'
    attention = {}
    if runner is not None:
        try:
            attention = attention_pictures(runner, page.image_ids, truth, page.score_thr)
            no_attention = ''
        except InputError as e:
            no_attention = f'No attention maps: {e}.'
    html = page.render(
        title=title(args, cfg),
        facts=facts(args, cfg, dict(annotations=truth.ann_file), not_best),
        attention=attention,
        no_attention=no_attention,
        **training_log(args),
        training=training_data(cfg),
    )
    with atomic_write(out, 'w') as file:
        file.write(html)
    best = page.thresholds.best()
    if not has_results and not np.isnan(best):
        keep_best_threshold(args.model, best, page)
    said = 'nothing right was found' if np.isnan(best) else f'best threshold {best:.2f}'
    if truth.num_without_mask:
        missing = f'{truth.num_without_mask} of {truth.num_objects} annotated objects'
        print(f"only boxes are compared: {missing} of '{truth.ann_file}' have no mask")
    print(', '.join([*(f'{name} AP {accuracy.ap():.3f}' for name, accuracy in page.accuracies.items()), said]))
    print(out)


def is_results(path: str) -> bool:
    """Whether a path is that of predictions, not of a checkpoint."""
    return path.endswith(('.pkl', '.pickle'))


def report_segmentor(args: argparse.Namespace, cfg: Config, out: Path, not_best: str) -> None:
    """Test a model of MMSegmentation, and write the page on it."""
    if is_results(args.model):
        raise InputError(f'{args.model}: predictions of a segmentor hold no labels, give its checkpoint')
    if args.score_thr is not None:
        raise InputError(
            f'--score-thr {args.score_thr}: the page shows the pixels as the model labels them, set --cfg-options '
            'model.decode_head.threshold in its place'
        )
    runner = build_test(cfg, args.model)
    dataset = runner.test_dataloader.dataset
    classes = dataset.metainfo['classes']
    evaluator = runner.build_evaluator(cfg.test_evaluator)
    evaluator.dataset_meta = dataset.metainfo
    results = SegmentationResults(evaluator, len(classes))
    runner.test_evaluator.metrics.append(results)
    with torch.inference_mode():
        figures = runner.test()
    head = runner.model.decode_head
    page = SegmentationPage(
        results.images,
        figures,
        classes,
        get_palette(dataset.metainfo.get('palette'), len(classes)),
        head.threshold if head.out_channels == 1 else None,
        args.num_images,
    )
    data = dict(images=str(Path(results.images[0].path).parent))
    html = page.render(title(args, cfg), facts(args, cfg, data, not_best), **training_log(args))
    with atomic_write(out, 'w') as file:
        file.write(html)
    best = '' if np.isnan(page.best_threshold) else f', best threshold {page.best_threshold:.2f}'
    print(', '.join(f'{name} {value:.3f}' for name, value in figures.items()) + best)
    print(out)


def keep_best_threshold(checkpoint_file: str, best: float, page: ReportPage) -> None:
    """Write it beside the checkpoint, for the pictures of the other tools."""
    try:
        figures = {f'{name}_ap': accuracy.ap() for name, accuracy in page.accuracies.items()}
        keep_score_thr(checkpoint_file, best, **figures)
    except OSError as e:
        print(
            f'report.json cannot be written beside {checkpoint_file} ({e.strerror}): '
            f'to draw detections from the best threshold on, give --score-thr {best:.2f}'
        )


def build_test(cfg: Config, checkpoint_file: str, evaluator: list[dict] | None = None) -> Runner:
    """Build the runner of a test, by default with the config's evaluator."""
    cfg.load_from = checkpoint_file
    checkpoint = load_checkpoint_file(checkpoint_file)
    cfg.custom_hooks = [
        hook for hook in cfg.get('custom_hooks', []) if type_name(hook) != 'AttentionVisualizationHook'
    ] + [dict(type='mmdet.FastInferenceHook')]
    check_inputs(cfg, 'test')
    if evaluator is not None:
        cfg.test_evaluator = evaluator
    runner = build_runner(cfg)
    check_checkpoint_fits(checkpoint, checkpoint_file, runner.model)
    return runner


def check_results(results: Sequence[ImageResult], truth: GroundTruth, source: str) -> None:
    """Refuse predictions of other images or classes, and images without annotations."""
    known = set(truth.image_ids)
    foreign = [result.image_id for result in results if result.image_id not in known]
    if foreign:
        raise InputError(
            f"{source}: {len(foreign)} of its {len(results)} images are not in '{truth.ann_file}', e.g. image "
            f'{foreign[0]}; give the config that they were predicted with'
        )
    highest = max((int(result.labels.max(initial=0)) for result in results), default=0)
    if highest >= len(truth.classes):
        raise InputError(
            f"{source}: has label {highest}, but '{truth.ann_file}' has {len(truth.classes)} of the config's classes; "
            'give the config that it was predicted with'
        )
    if not any(truth.annotations(result.image_id) for result in results):
        raise InputError(
            f"'{truth.ann_file}' has no annotated object of the config's classes: a report compares with them"
        )


def attention_pictures(runner: Runner, image_ids: Sequence, truth: GroundTruth, score_thr: float) -> dict:
    """Return pictures, BGR, of the mask head's attention in some images."""
    recorder = AttentionRecorder(runner.model)
    dataset = runner.test_dataloader.dataset
    places = {dataset.get_data_info(i)['img_id']: i for i in range(len(dataset))}
    pictures = {}
    with recorder, torch.inference_mode():
        for image_id in image_ids:
            batch = pseudo_collate([dataset[places[image_id]]])
            sample = runner.model.test_step(batch)[0]
            image = mmcv.imread(str(truth.path(image_id)), channel_order='rgb')
            heat = recorder.heat(batch['data_samples'], sample, score_thr)
            pictures[image_id] = np.ascontiguousarray(recorder.overlay(heat, image)[..., ::-1])
            recorder.forget()
    return pictures


def training_data(cfg: Config) -> DataStatistics | None:
    """Return the statistics of the training data, or None, and say why, if they cannot be read."""
    try:
        return DataStatistics(GroundTruth.of_config(cfg, 'train'))
    except InputError as e:
        print(f'the training data are left out of the page: {e}')
        return None


def title(args: argparse.Namespace, cfg: Config) -> str:
    """Return the page's heading."""
    names = ', '.join(dict.fromkeys((Path(args.config).stem, Path(args.model).stem)))
    return f'Report on {type_name(cfg.model)} ({names})'


def training_log(args: argparse.Namespace) -> dict:
    """Return ``scalars`` of the training, and ``no_scalars``, which says how to name its folder."""
    train_dir = args.train_dir or (None if is_results(args.model) else str(Path(args.model).parent))
    if not train_dir:
        return dict(scalars=(), no_scalars='For the curves of the training, name its work folder with --train-dir.')
    missing = f'There is no log of a training in {train_dir}: name its work folder with --train-dir.'
    return dict(scalars=read_scalars(Path(train_dir)), no_scalars=missing)


def facts(args: argparse.Namespace, cfg: Config, data: dict[str, str], not_best: str) -> dict[str, str]:
    """Return what the page was made from: ``data``, names and paths, and more.

    ``not_best`` says why not from the checkpoint that was given.
    """
    return {
        'config': str(Path(args.config).resolve()),
        'results' if is_results(args.model) else 'checkpoint': str(Path(args.model).resolve())
        + (f' ({not_best})' if not_best else ''),
        'options': ' '.join(f'{key}={value}' for key, value in (args.cfg_options or {}).items()) or 'none',
        **{name: str(Path(path).resolve()) for name, path in data.items()},
        'model': type_name(cfg.model),
        'made on': datetime.now().strftime('%Y-%m-%d %H:%M'),
        'with': f'mmdet_sag {mmdet_sag.__version__}, mmdet {mmdet.__version__}, torch {torch.__version__}, '
        f'Python {platform.python_version()}',
    }


if __name__ == '__main__':
    run_command(main)
