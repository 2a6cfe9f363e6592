import contextlib
import io
from collections import defaultdict
from pathlib import Path

import numpy as np
from mmdet.datasets.api_wrappers import COCO
from mmengine.config import Config

from ..datasets.coco import coco_sources
from ..errors import InputError


class GroundTruth:
    """The annotated objects of a COCO file.

    Args:
        ann_file: Annotation file.
        image_folder: Folder that its file names are relative to.
        classes: Class names; labels are numbered in the order of the file, as MMDetection does.
    """

    def __init__(self, ann_file: str, image_folder: str, classes: tuple[str, ...]) -> None:
        self.ann_file = ann_file
        self.image_folder = Path(image_folder)
        with contextlib.redirect_stdout(io.StringIO()):
            self.coco = COCO(ann_file)
        self.cat_ids = self.coco.get_cat_ids(cat_names=classes)
        self.classes = [self.coco.cats[cat_id]['name'] for cat_id in self.cat_ids]
        self._labels = {cat_id: label for label, cat_id in enumerate(self.cat_ids)}
        self._by_image = defaultdict(list)
        for annotation in self.coco.anns.values():
            if annotation['category_id'] in self._labels:
                self._by_image[annotation['image_id']].append(annotation)

    @classmethod
    def of_config(cls, cfg: Config, phase: str = 'test') -> 'GroundTruth':
        """Read the annotation file of a phase of a config.

        Args:
            cfg: Config of a run.
            phase: ``'train'``, ``'val'`` or ``'test'``.

        Raises:
            InputError: The config does not name exactly one data set in COCO's format, or it cannot be read.
        """
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
        """Masks of :meth:`annotations`, in COCO's run-length encoding."""
        return [self.coco.annToRLE(annotation) for annotation in self.annotations(image_id)]

    def labels(self, image_id: int) -> np.ndarray:
        """Labels of :meth:`annotations`, shape (n, )."""
        return np.array([self.label(annotation) for annotation in self.annotations(image_id)], dtype=np.int64)

    def crowds(self, image_id: int) -> np.ndarray:
        """Which of :meth:`annotations` are crowd regions, shape (n, ), bool."""
        return np.array([bool(a.get('iscrowd', 0)) for a in self.annotations(image_id)], dtype=bool)
