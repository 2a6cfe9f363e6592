"""Writers of common label formats, from a data set in COCO's format."""

import json
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mmdet_sag.datasets.converters.labelled_data import LabelledData
from mmdet_sag.datasets.converters.source_files import NOT_LEARNT


class DemoParts(NamedTuple):
    """A data set: content of the annotation file and folder of the images by split, classes, folder."""

    parts: dict
    classes: tuple
    root: Path


def sound(data: LabelledData) -> LabelledData:
    """Labels that were read, of which nothing is broken; else the first reason is raised."""
    for kind, errors in data.left_out.items():
        if kind != NOT_LEARNT:
            raise errors[0]
    return data


def left_out(data: LabelledData) -> dict[str, list[str]]:
    """Place and reason of what was left out, by kind."""
    return {kind: [f'{error.place}: {error.reason}' for error in errors] for kind, errors in data.left_out.items()}


def _by_image(content: dict) -> dict:
    found = {image['id']: [] for image in content['images']}
    for annotation in content['annotations']:
        found[annotation['image_id']].append(annotation)
    return found


def _joined(polygons: list) -> np.ndarray:
    """One ring of several: there and back along a seam without area, as YOLO's own converter writes them."""
    rings = [np.reshape(polygon, (-1, 2)) for polygon in polygons]
    first = rings[0]
    loops = [np.concatenate([ring, ring[:1]]) for ring in rings]
    return np.concatenate([loops[0], *(part for loop in loops[1:] for part in (loop, first[:1]))])[:-1]


def write_yolo(root: Path, parts: dict, classes: tuple) -> None:
    """Write images/SPLIT, labels/SPLIT and data.yaml; crowd regions, which YOLO has not, are left out.

    Args:
        root: Folder to write.
        parts: Content of the annotation file and folder of the images, by split.
        classes: Names by category id - 1.
    """
    for split, (content, folder) in parts.items():
        images, labels = root / 'images' / split, root / 'labels' / split
        images.mkdir(parents=True)
        labels.mkdir(parents=True)
        found = _by_image(content)
        for image in content['images']:
            shutil.copy(folder / image['file_name'], images)
            lines = []
            for annotation in found[image['id']]:
                if annotation['iscrowd']:
                    continue
                fractions = _joined(annotation['segmentation']) / (image['width'], image['height'])
                numbers = ' '.join(f'{value:.8g}' for value in fractions.ravel())
                lines.append(f'{annotation["category_id"] - 1} {numbers}')
            (labels / image['file_name']).with_suffix('.txt').write_text('\n'.join(lines))
    names = '\n'.join(f'  {number}: {name}' for number, name in enumerate(classes))
    (root / 'data.yaml').write_text(f'path: .\ntrain: images/train\nval: images/val\nnames:\n{names}\n')


def write_labelme(root: Path, parts: dict, classes: tuple) -> None:
    """Write a folder for each split with images and JSON files; crowd regions are left out."""
    for split, (content, folder) in parts.items():
        (root / split).mkdir(parents=True)
        found = _by_image(content)
        for image in content['images']:
            shutil.copy(folder / image['file_name'], root / split)
            shapes = []
            for annotation in found[image['id']]:
                if annotation['iscrowd']:
                    continue
                polygons = annotation['segmentation']
                group = annotation['id'] if len(polygons) > 1 else None
                for polygon in polygons:
                    points = np.reshape(polygon, (-1, 2)).tolist()
                    label = classes[annotation['category_id'] - 1]
                    shapes.append(dict(label=label, points=points, group_id=group, shape_type='polygon', flags={}))
            labels = dict(
                version='5.5.0',
                flags={},
                shapes=shapes,
                imagePath=image['file_name'],
                imageData=None,
                imageHeight=image['height'],
                imageWidth=image['width'],
            )
            path = (root / split / image['file_name']).with_suffix('.json')
            path.write_text(json.dumps(labels), encoding='utf-8')
