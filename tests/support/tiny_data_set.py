"""A data set of three small images to break, and the config of a model that learns it."""

import copy
import json
from functools import cache
from pathlib import Path

import numpy as np
from mmengine.config import Config
from PIL import Image

from .tiny import tiny_config

CLASSES = ('cat', 'dog')
WIDTH, HEIGHT = 64, 48


@cache
def _model_config() -> Config:
    return tiny_config(num_classes=len(CLASSES))


class TinyDataSet:
    """Sound data on disk; tests change ``content``, the files or ``config`` before they use it.

    Args:
        root: Folder to write to.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.ann_file = root / 'annotations.json'
        self.image_folder = root / 'images'
        self.image_folder.mkdir(parents=True)
        images, annotations = [], []
        generator = np.random.default_rng(0)
        for image_id in (1, 2, 3):
            name = f'{image_id}.png'
            pixels = generator.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(self.image_folder / name)
            images.append(dict(id=image_id, file_name=name, width=WIDTH, height=HEIGHT))
            for category_id in (1, 2):
                x, y = 5 * category_id, 6 * category_id
                annotations.append(
                    dict(
                        id=len(annotations) + 1,
                        image_id=image_id,
                        category_id=category_id,
                        bbox=[x, y, 20, 16],
                        area=320,
                        iscrowd=0,
                        segmentation=[[x, y, x + 20, y, x + 20, y + 16, x, y + 16]],
                    )
                )
        runs = [10 * HEIGHT, 8 * HEIGHT, (WIDTH - 18) * HEIGHT]
        annotations.append(
            dict(
                id=len(annotations) + 1,
                image_id=3,
                category_id=1,
                bbox=[10, 0, 8, HEIGHT],
                area=8 * HEIGHT,
                iscrowd=1,
                segmentation=dict(size=[HEIGHT, WIDTH], counts=runs),
            )
        )
        categories = [dict(id=i, name=name) for i, name in enumerate(CLASSES, 1)]
        self.content = dict(images=images, annotations=annotations, categories=categories)
        self.write()
        self.config = self._config()

    def _config(self) -> Config:
        config = copy.deepcopy(_model_config())
        dataset = dict(
            data_root=f'{self.root}/',
            ann_file=self.ann_file.name,
            data_prefix=dict(img=f'{self.image_folder.name}/'),
            metainfo=dict(classes=CLASSES),
        )
        for split in ('train', 'val', 'test'):
            config.merge_from_dict({f'{split}_dataloader.dataset': dataset})
        # RLE is to be broken too, which a pipeline of polygons does not take at all.
        for transform in config.train_dataloader.dataset.pipeline:
            if transform.type == 'LoadAnnotations':
                transform.poly2mask = True
        for split in ('val', 'test'):
            config[f'{split}_evaluator'].ann_file = str(self.ann_file)
        return config

    @property
    def annotation(self) -> dict:
        """The first annotation."""
        return self.content['annotations'][0]

    @property
    def train_set(self) -> dict:
        """Config of the training data set."""
        return self.config.train_dataloader.dataset

    def write(self) -> None:
        """Writes the annotation file."""
        self.ann_file.write_text(json.dumps(self.content))

    def write_config(self) -> Path:
        """Writes the config to a file and returns its path."""
        path = self.root / 'config.py'
        self.config.dump(path)
        return path
