from pathlib import Path

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt

LOSSES = {
    'loss': 'total',
    'loss_cls': 'class',
    'loss_bbox': 'box',
    'loss_centerness': 'centerness',
    'loss_mask': 'mask',
    'loss_mask_iou': 'mask IoU',
    'loss_seg': 'semantic',
}


def training_minutes(scalars: list[dict]) -> float:
    """Sum the time of all training steps, without validation and start-up, in minutes."""
    seconds, last_step = 0.0, 0
    for record in scalars:
        if 'loss' in record:
            seconds += record['time'] * (record['step'] - last_step)
            last_step = record['step']
    return seconds / 60


def draw_training_curve(scalars: list[dict], out_file: Path) -> None:
    """Plot losses, AP and, where there is one, PQ over the steps.

    Args:
        scalars: Result of :func:`mmdet_sag.analysis.read_scalars`.
        out_file: The picture's file.
    """
    training = [record for record in scalars if 'loss' in record]
    validation = [record for record in scalars if 'coco/segm_mAP' in record]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.4), dpi=100, layout='constrained')
    for key, name in LOSSES.items():
        if key not in training[-1]:
            continue
        width = 1.8 if key == 'loss' else 1.1
        left.plot([r['step'] for r in training], [r[key] for r in training], label=name, linewidth=width)
    left.set(xlabel='training step', title='Losses', yscale='log')
    left.legend(fontsize=9, frameon=False, loc='center left', bbox_to_anchor=(1, 0.5))
    for key, name in (('coco/segm_mAP', 'mask AP'), ('coco/bbox_mAP', 'box AP')):
        right.plot([r['step'] for r in validation], [r[key] for r in validation], marker='o', markersize=4, label=name)
    title = 'AP (0.50:0.95) on validation images'
    if 'coco_panoptic/PQ' in validation[-1]:
        quality = [r['coco_panoptic/PQ'] / 100 for r in validation]
        right.plot([r['step'] for r in validation], quality, marker='o', markersize=4, label='PQ')
        title = 'PQ and AP (0.50:0.95) on validation images'
    right.set(xlabel='training step', title=title, ylim=(0, None))
    right.set_xlim(0, None)
    right.legend(frameon=False, loc='lower right')
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.spines[['top', 'right']].set_visible(False)
    figure.savefig(out_file)
    plt.close(figure)
