import contextlib
import io
from collections import defaultdict
from pathlib import Path
from typing import Optional

import numpy as np
import pycocotools.mask as mask_utils
from mmdet.datasets.api_wrappers import COCO
from mmengine.config import Config

from ..datasets.coco_file import load_coco
from ..datasets.data_sources import coco_sources
from ..errors import InputError
from ..evaluation.metrics.unrounded_coco_metric import number_annotations

# COCO's limits of the size of an object, areas in pixels.
SIZE_LIMITS = {'small': (0, 32**2), 'medium': (32**2, 96**2), 'large': (96**2, float('inf'))}


class GroundTruth:
    """The annotated objects of a COCO file; labels are numbered in its order, as MMDetection does.

    Attributes:
        num_objects, num_without_mask: Number of annotations of the model's classes, and of those without a mask.
    """

    def __init__(self, ann_file: str, image_folder: str, classes: tuple[str, ...]) -> None:
        self.ann_file = ann_file
        self.image_folder = Path(image_folder)
        with contextlib.redirect_stdout(io.StringIO()):
            self.coco = COCO()
            self.coco.dataset = load_coco(ann_file)
            self.coco.createIndex()
            number_annotations(self.coco)
        self.cat_ids = self.coco.get_cat_ids(cat_names=classes)
        self.classes = [self.coco.cats[cat_id]['name'] for cat_id in self.cat_ids]
        self._labels = {cat_id: label for label, cat_id in enumerate(self.cat_ids)}
        self._by_image = defaultdict(list)
        for annotation in self.coco.anns.values():
            if annotation['category_id'] in self._labels:
                self._by_image[annotation['image_id']].append(annotation)
        have_mask = [bool(a.get('segmentation')) for found in self._by_image.values() for a in found]
        self.num_objects, self.num_without_mask = len(have_mask), have_mask.count(False)

    @classmethod
    def of_config(cls, cfg: Config, phase: str = 'test') -> 'GroundTruth':
        """Read the annotation file of a config's one data set for a phase: ``'train'``, ``'val'`` or ``'test'``."""
        option = f'{phase}_dataloader.dataset'
        if cfg.get(f'{phase}_dataloader') is None:
            raise InputError(f'the config has no {phase}_dataloader: add it, or inherit one from configs/_base_')
        sources = list(coco_sources(cfg[f'{phase}_dataloader'].dataset, option))
        if len(sources) != 1:
            raise InputError(f'{option} is not one data set in the format of COCO: name one, of type CocoDataset')
        return cls(sources[0].ann_file, sources[0].image_folder, sources[0].classes)

    @property
    def image_ids(self) -> list:
        """Ids of all images of the file."""
        return list(self.coco.imgs)

    @property
    def iou_type(self) -> str:
        """What predictions are compared by: ``'segm'``, or ``'bbox'`` if not all annotations have a mask."""
        return 'bbox' if self.num_without_mask else 'segm'

    def image(self, image_id: int) -> dict:
        """Entry of an image in the file."""
        return self.coco.imgs[image_id]

    def path(self, image_id: int) -> Path:
        """File of an image."""
        return self.image_folder / self.coco.imgs[image_id]['file_name']

    def annotations(self, image_id: int) -> list[dict]:
        """Annotations of an image, of the model's classes, including crowd regions."""
        return self._by_image[image_id]

    def label(self, annotation: dict) -> int:
        """Label of an annotation: the index of its class."""
        return self._labels[annotation['category_id']]

    def masks(self, image_id: int) -> list[dict]:
        """Masks of :meth:`annotations`, in COCO's run-length encoding; filled boxes of those without a mask."""
        size = [self.image(image_id)[side] for side in ('height', 'width')]
        return [
            self.coco.annToRLE(annotation)
            if annotation.get('segmentation')
            else mask_utils.frPyObjects(np.array([annotation['bbox']], dtype=np.float64), *size)[0]
            for annotation in self.annotations(image_id)
        ]

    def overlaps(self, image_id: int, bboxes: np.ndarray, masks: list[dict]) -> np.ndarray:
        """IoUs of n predictions, boxes (n, 4) xyxy and masks, with the m :meth:`annotations`, by :attr:`iou_type`.

        Returns:
            IoUs of shape (n, m); with a crowd region, the part of the prediction that lies in it.
        """
        found, objects = masks, self.masks(image_id)
        if not found or not objects:
            return np.zeros((len(found), len(objects)))
        if self.iou_type == 'bbox':
            found = np.concatenate([bboxes[:, :2], bboxes[:, 2:] - bboxes[:, :2]], axis=1)
            objects = np.array([annotation['bbox'] for annotation in self.annotations(image_id)], dtype=np.float64)
        return mask_utils.iou(found, objects, self.crowds(image_id).astype(np.uint8).tolist())

    def labels(self, image_id: int) -> np.ndarray:
        """Labels of :meth:`annotations`, shape (n, )."""
        return np.array([self.label(annotation) for annotation in self.annotations(image_id)], dtype=np.int64)

    def crowds(self, image_id: int) -> np.ndarray:
        """Which of :meth:`annotations` are crowd regions, shape (n, ), bool."""
        return np.array([bool(a.get('iscrowd', 0)) for a in self.annotations(image_id)], dtype=bool)


class DataStatistics:
    """Numbers of a data set for the report, and remarks on what looks wrong.

    Attributes:
        num_images, num_empty, num_crowds: Number of images, of those without objects, and of crowd regions.
        image_sizes: Width and height of each image, shape (n, 2).
        objects_per_image: Number of objects of each image, shape (n, ).
        objects_per_class: Number of objects of each class, shape (num_classes, ).
        objects_per_size: Number of objects of each of :data:`SIZE_LIMITS`.
        object_sides: Square root of each object's area, in pixels, shape (m, ).
    """

    def __init__(self, truth: GroundTruth) -> None:
        self.truth = truth
        ids = truth.image_ids
        self.num_images = len(ids)
        self.image_sizes = np.array([[truth.image(i)['width'], truth.image(i)['height']] for i in ids]).reshape(-1, 2)
        self._objects = objects = {i: [a for a in truth.annotations(i) if not a.get('iscrowd', 0)] for i in ids}
        self.objects_per_image = np.array([len(objects[i]) for i in ids], dtype=np.int64)
        self.num_empty = int((self.objects_per_image == 0).sum())
        labels = [truth.label(a) for found in objects.values() for a in found]
        self.objects_per_class = np.bincount(np.array(labels, dtype=np.int64), minlength=len(truth.classes))
        areas = np.array([a['area'] for found in objects.values() for a in found], dtype=np.float64)
        self.object_sides = np.sqrt(areas)
        self.objects_per_size = {
            name: int(((areas >= low) & (areas < high)).sum()) for name, (low, high) in SIZE_LIMITS.items()
        }
        self.num_crowds = sum(len(truth.annotations(i)) - len(objects[i]) for i in ids)

    def remarks(self, training: Optional['DataStatistics'] = None) -> list[str]:
        """Return sentences on what looks wrong, also with the training data, or makes the figures uncertain."""
        remarks = []
        numbers = dict(zip(self.truth.classes, self.objects_per_class.tolist()))
        if none := [name for name, number in numbers.items() if number == 0]:
            remarks.append(f'No objects, so there are no figures: {_names(none)}.')
        if few := [f'{name} ({number})' for name, number in numbers.items() if 0 < number < 20]:
            remarks.append(f'Few objects, so their figures are uncertain: {_names(few)}.')
        learnt = zip(training.truth.classes, training.objects_per_class) if training is not None else ()
        if unlearnt := [name for name, number in learnt if number == 0]:
            remarks.append(f'No objects in the training data: {_names(unlearnt)}.')
        if missing := [i for i in self._objects if not self.truth.path(i).is_file()]:
            remarks.append(f'{len(missing)} images are missing, e.g. {self.truth.path(missing[0])}.')
        doubled = outside = 0
        for image_id, found in self._objects.items():
            size = np.array([self.truth.image(image_id)[side] for side in ('width', 'height')])
            boxes = np.array([a['bbox'] for a in found]).reshape(-1, 4)
            doubled += len(found) - len({(a['category_id'], *np.round(a['bbox'], 1).tolist()) for a in found})
            outside += int(((boxes[:, :2] < -1) | (boxes[:, :2] + boxes[:, 2:] > size + 1)).any(axis=1).sum())
        if doubled:
            remarks.append(f'{doubled} objects are annotated twice: same class, same box.')
        if outside:
            remarks.append(f'{outside} boxes reach beyond their image.')
        if tiny := int((self.object_sides < 4).sum()):
            remarks.append(f'{tiny} objects cover fewer than 16 pixels.')
        if training is not None:
            paths = [{truth.path(i).resolve() for i in truth.image_ids} for truth in (training.truth, self.truth)]
            if shared := paths[0] & paths[1]:
                remarks.append(
                    f'{len(shared)} images are also in the training data, e.g. {min(shared)}: the figures are too good.'
                )
        return remarks


def _names(names: list[str], most: int = 8) -> str:
    more = f' and {len(names) - most} more classes' if len(names) > most else ''
    return ', '.join(names[:most]) + more
