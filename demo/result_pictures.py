"""Pictures of the demo's results: losses and AP over the training, and segmentations beside the ground truth."""

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt
import numpy as np
import pycocotools.mask as mask_utils
import torch
from matplotlib.patches import Patch
from mmengine.structures import InstanceData

from mmdet_sag.datasets.coco_instance_panoptic import read_segment_ids
from mmdet_sag.visualization import draw_instances

LOSSES = {
    'loss': 'total',
    'loss_cls': 'class',
    'loss_bbox': 'box',
    'loss_centerness': 'centerness',
    'loss_mask': 'mask',
    'loss_mask_iou': 'mask IoU',
    'loss_seg': 'semantic',
}
ROWS = ('image', 'ground truth', 'prediction')

Colour = tuple[int, int, int]


class Region(NamedTuple):
    """A region of an image: category id, mask (H, W), bool, and whether it is a crowd, which is drawn as an outline."""

    category: int
    mask: np.ndarray
    is_crowd: bool


def training_minutes(scalars: list[dict]) -> float:
    """Time of all training steps in minutes, without validation and start-up."""
    seconds, last_step = 0.0, 0
    for record in scalars:
        if 'loss' in record:
            seconds += record['time'] * (record['step'] - last_step)
            last_step = record['step']
    return seconds / 60


def draw_training_curve(scalars: list[dict], out_file: Path) -> None:
    """Plot losses, AP and, if there is one, PQ over the steps.

    Args:
        scalars: Result of :func:`mmdet_sag.analysis.read_scalars`.
        out_file: The picture's file.
    """
    training = [record for record in scalars if 'loss' in record]
    validation = [record for record in scalars if 'coco/segm_mAP' in record]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.4), dpi=100, layout='constrained')
    for key, name in LOSSES.items():
        if key in training[-1]:
            width = 1.8 if key == 'loss' else 1.1
            left.plot([r['step'] for r in training], [r[key] for r in training], label=name, linewidth=width)
    left.set(xlabel='training step', title='Losses', yscale='log')
    left.legend(fontsize=9, frameon=False, loc='center left', bbox_to_anchor=(1, 0.5))
    # Panoptic quality is in percent.
    metrics = (('coco/segm_mAP', 'mask AP', 1), ('coco/bbox_mAP', 'box AP', 1), ('coco_panoptic/PQ', 'PQ', 100))
    for key, name, unit in metrics:
        if key in validation[-1]:
            values = [r[key] / unit for r in validation]
            right.plot([r['step'] for r in validation], values, marker='o', markersize=4, label=name)
    names = 'PQ and AP' if 'coco_panoptic/PQ' in validation[-1] else 'AP'
    right.set(xlabel='training step', title=f'{names} (0.50:0.95) on validation images', ylim=(0, None))
    right.set_xlim(0, None)
    right.legend(frameon=False, loc='lower right')
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.spines[['top', 'right']].set_visible(False)
    figure.savefig(out_file)
    plt.close(figure)


def draw_result_grid(
    data_root: Path, predictions_file: Path, palette: Sequence[Colour], out_file: Path, score_thr: float = 0.4
) -> None:
    """Draw validation images beside their true and their predicted masks.

    Args:
        data_root: Folder of the data set.
        predictions_file: Predicted masks in COCO's result format.
        palette: RGB colour of each class, in the order of the categories.
        out_file: The picture's file.
        score_thr: Lowest mask score that is drawn.
    """
    dataset = json.loads((data_root / 'annotations/instances_val2017.json').read_text())
    predictions = [p for p in json.loads(predictions_file.read_text()) if p['score'] >= score_thr]
    # The best lies on top.
    predictions.sort(key=lambda prediction: -prediction['score'])

    def regions(annotations: list[dict]) -> Callable[[dict], list[Region]]:
        by_image = defaultdict(list)
        for annotation in annotations:
            by_image[annotation['image_id']].append(annotation)
        return lambda image: [
            Region(a['category_id'], _mask(a['segmentation'], image), bool(a.get('iscrowd')))
            for a in by_image[image['id']]
        ]

    _draw_grid(data_root, dataset, (regions(dataset['annotations']), regions(predictions)), palette, out_file)


def draw_panoptic_grid(data_root: Path, predictions_file: Path, palette: Sequence[Colour], out_file: Path) -> None:
    """Draw validation images beside their true and their predicted panoptic segmentation.

    Pixels that belong to no segment stay as they are.

    Args:
        data_root: Folder of the data set.
        predictions_file: Predicted segments in COCO's panoptic format; the PNG files are in the folder beside it.
        palette: RGB colour of each class, in the order of the categories.
        out_file: The picture's file.
    """

    def regions(path: Path) -> Callable[[dict], list[Region]]:
        entries = {entry['image_id']: entry for entry in json.loads(path.read_text())['annotations']}

        def of_image(image: dict) -> list[Region]:
            entry = entries[image['id']]
            ids = read_segment_ids(str(path.with_suffix('') / entry['file_name']))
            # Things lie over stuff.
            return [
                Region(segment['category_id'], ids == segment['id'], bool(segment.get('iscrowd')))
                for segment in sorted(entry['segments_info'], key=lambda segment: segment['category_id'])
            ]

        return of_image

    truth_file = data_root / 'annotations/panoptic_val2017.json'
    dataset = json.loads(truth_file.read_text())
    _draw_grid(data_root, dataset, (regions(truth_file), regions(predictions_file)), palette, out_file)


def _draw_grid(
    data_root: Path,
    dataset: dict[str, Any],
    segmentations: Sequence[Callable[[dict], list[Region]]],
    palette: Sequence[Colour],
    out_file: Path,
    num_images: int = 5,
) -> None:
    """Save a column for each of the first images, with a row for the image and for each of its segmentations."""
    labels = {category['id']: label for label, category in enumerate(dataset['categories'])}
    classes = [category['name'] for category in dataset['categories']]
    images = dataset['images'][:num_images]
    figure, axes = plt.subplots(
        3, len(images), figsize=(2 * len(images), 6.4), dpi=120, layout='constrained', squeeze=False
    )
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0.02, hspace=0.02)
    for column, image in enumerate(images):
        picture = cv2.imread(str(data_root / 'val2017' / image['file_name']))
        for row, regions in enumerate([[], *(segmentation(image) for segmentation in segmentations)]):
            axes[row, column].imshow(_draw(picture, regions, labels, classes, palette)[..., ::-1])
            axes[row, column].set(xticks=[], yticks=[])
            axes[row, column].spines[:].set_visible(False)
    for row, name in enumerate(ROWS):
        axes[row, 0].set_ylabel(name, fontsize=12)
    handles = [Patch(color=np.array(colour) / 255, label=name) for name, colour in zip(classes, palette)]
    figure.legend(handles=handles, loc='outside lower center', ncols=min(len(handles), 6), frameon=False, fontsize=11)
    figure.savefig(out_file)
    plt.close(figure)


def _draw(
    image: np.ndarray, regions: list[Region], labels: dict[int, int], classes: list[str], palette: Sequence[Colour]
) -> np.ndarray:
    """Draw regions over an image, BGR: the first ones on top, crowds as outlines."""
    objects = [region for region in regions if region.mask.any() and not region.is_crowd]
    instances = InstanceData(
        bboxes=torch.zeros(len(objects), 4),
        labels=torch.tensor([labels[region.category] for region in objects], dtype=torch.long),
        masks=torch.from_numpy(np.array([region.mask for region in objects], dtype=bool)),
    )
    picture = draw_instances(image, instances, classes, palette, max_names=0, strip=False)
    for region in regions:
        if region.is_crowd:
            mask = cv2.resize(region.mask.astype(np.uint8), picture.shape[1::-1], interpolation=cv2.INTER_NEAREST)
            contours, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
            cv2.drawContours(picture, contours, -1, palette[labels[region.category]][::-1], 2, cv2.LINE_AA)
    return picture


def _mask(segmentation: list | dict, image: dict) -> np.ndarray:
    if isinstance(segmentation, list):
        segmentation = mask_utils.merge(mask_utils.frPyObjects(segmentation, image['height'], image['width']))
    elif isinstance(segmentation['counts'], list):
        segmentation = mask_utils.frPyObjects(segmentation, image['height'], image['width'])
    return mask_utils.decode(segmentation).astype(bool)
