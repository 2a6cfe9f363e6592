import json
from pathlib import Path

import cv2
import numpy as np
import pycocotools.mask as mask_utils
from shapely import Polygon
from shapely.geometry.base import BaseGeometry

from mmdet_sag.datasets.converters.masks import parts_without_holes
from mmdet_sag.errors import InputError
from mmdet_sag.fileio import atomic_folder

from .panoptic_shape_scene import PanopticShapeScene, SceneSegment
from .shape_scene import ShapeScene

# Increase it when the same parameters give another data set.
VERSION = 1
MARKER = 'demo_shapes.json'
# Ids of segments are this far apart, so that their colours in the PNG use all channels.
ID_STEP = 70003
SPLITS = ('train2017', 'val2017')


def make_demo_shapes(
    out_dir: str | Path,
    num_train: int = 400,
    num_val: int = 80,
    image_size: int = 128,
    seed: int = 0,
    panoptic: bool = False,
) -> bool:
    """Make a small instance segmentation data set in COCO's layout: textured shapes that occlude each other.

    The data set is written atomically. A second call with the same parameters does nothing. With other parameters the
    data set is replaced, unless the folder also has other files. Objects are annotated with polygons of their
    visible part, crowds (about every tenth image has one) with RLE.

    Args:
        out_dir: Directory of the data set. It gets ``train2017/``, ``val2017/``,
            ``annotations/instances_{train,val}2017.json`` and ``demo_shapes.json``, which holds the parameters.
        num_train: Number of training images.
        num_val: Number of validation images.
        image_size: Side of the square images in pixels, at least 32.
        seed: Seed of all random choices.
        panoptic: Whether the background is stuff: the same objects lie on regions of stuff classes, and the data set
            also gets ``annotations/panoptic_{train,val}2017.json`` and folders of that name with PNG files.

    Returns:
        Whether the data set was made: False if it existed.

    Raises:
        InputError: If a parameter is out of range, or ``out_dir`` has files of anything else.
    """
    out_dir = Path(out_dir)
    for name, value, least in (
        ('number of training images', num_train, 1),
        ('number of validation images', num_val, 1),
        ('image size', image_size, 32),
        ('seed', seed, 0),
    ):
        if value < least:
            raise InputError(f'the {name} is {value}: give at least {least}')
    parameters = dict(version=VERSION, num_train=num_train, num_val=num_val, image_size=image_size, seed=seed)
    if panoptic:
        parameters['panoptic'] = True
    marker = out_dir / MARKER
    if marker.is_file():
        previous = _read_parameters(marker)
        if previous == parameters:
            return False
        if foreign := _foreign_files(out_dir, previous):
            names = ', '.join(foreign[:3]) + (', ...' if len(foreign) > 3 else '')
            raise InputError(
                f'{out_dir} would be replaced, as its parameters differ, but has {len(foreign)} files or folders that '
                f'do not belong to it ({names}): move them elsewhere, or name another directory'
            )
    elif out_dir.exists() and (not out_dir.is_dir() or any(out_dir.iterdir())):
        raise InputError(f'{out_dir} exists and is not a demo data set: remove it, or name another directory')

    with atomic_folder(out_dir) as folder:
        for split, num_images in zip(SPLITS, (num_train, num_val)):
            _write_split(folder, split, num_images, image_size, seed, panoptic)
        (folder / MARKER).write_text(json.dumps(parameters))
    return True


def _read_parameters(marker: Path) -> dict:
    try:
        parameters = json.loads(marker.read_text())
        sizes = [parameters[key] for key in ('num_train', 'num_val')]
    except (ValueError, TypeError, KeyError):
        sizes = [None]
    if not all(isinstance(size, int) for size in sizes):
        raise InputError(
            f'{marker} does not hold the parameters of a demo data set: remove {marker.parent}, or name another '
            'directory'
        )
    return parameters


def _foreign_files(root: Path, parameters: dict) -> list[str]:
    """Files and folders that do not belong to the data set of these parameters."""
    made = {MARKER, 'annotations', *SPLITS}
    for split, num_images in zip(SPLITS, (parameters['num_train'], parameters['num_val'])):
        made.add(f'annotations/{_annotation_name(split)}')
        made.update(f'{split}/{_image_name(i)}' for i in range(num_images))
        if parameters.get('panoptic'):
            folder = f'annotations/{_panoptic_name(split)}'
            made |= {folder, f'{folder}.json'} | {f'{folder}/{_png_name(i)}' for i in range(num_images)}
    return sorted({path.relative_to(root).as_posix() for path in root.rglob('*')} - made)


def _image_name(index: int) -> str:
    return f'{index + 1:06d}.jpg'


def _png_name(index: int) -> str:
    return f'{index + 1:06d}.png'


def _annotation_name(split: str) -> str:
    return f'instances_{split}.json'


def _panoptic_name(split: str) -> str:
    return f'panoptic_{split}'


def _write_split(root: Path, split: str, num_images: int, image_size: int, seed: int, panoptic: bool) -> None:
    (root / split).mkdir(parents=True)
    scene_type = PanopticShapeScene if panoptic else ShapeScene
    png_dir = root / 'annotations' / _panoptic_name(split)
    images: list[dict] = []
    annotations: list[dict] = []
    panoptic_annotations: list[dict] = []
    for i in range(num_images):
        # An image depends on nothing but its own numbers, so that a larger data set contains the smaller one.
        scene = scene_type(np.random.default_rng([seed, SPLITS.index(split), i]), image_size)
        file_name = _image_name(i)
        cv2.imwrite(str(root / split / file_name), scene.image, [cv2.IMWRITE_JPEG_QUALITY, 95])
        images.append(dict(id=i + 1, file_name=file_name, height=image_size, width=image_size))
        for instance in scene.instances:
            annotation = _crowd(instance.region, image_size) if instance.is_crowd else _polygons(instance.region)
            ids = dict(id=len(annotations) + 1, image_id=i + 1, category_id=instance.label + 1)
            annotations.append(dict(**ids, iscrowd=int(instance.is_crowd), **annotation))
        if panoptic:
            panoptic_annotations.append(_write_segments(scene.segments, i, png_dir))

    categories = [dict(id=i + 1, name=name, supercategory='shape') for i, name in enumerate(ShapeScene.classes)]
    path = root / 'annotations' / _annotation_name(split)
    path.parent.mkdir(exist_ok=True)
    info = dict(description=f'Demo shapes, seed {seed}', version=str(VERSION))
    path.write_text(json.dumps(dict(info=info, images=images, annotations=annotations, categories=categories)))
    if panoptic:
        categories = [dict(category, isthing=1) for category in categories]
        for name in PanopticShapeScene.stuff_classes:
            categories.append(dict(id=len(categories) + 1, name=name, supercategory='ground', isthing=0))
        content = dict(info=info, images=images, annotations=panoptic_annotations, categories=categories)
        png_dir.with_suffix('.json').write_text(json.dumps(content))


def _write_segments(segments: list[SceneSegment], index: int, png_dir: Path) -> dict:
    png_dir.mkdir(parents=True, exist_ok=True)
    ids = np.zeros(segments[0].mask.shape, np.int32)
    segments_info = []
    for number, segment in enumerate(segments, 1):
        segment_id = number * ID_STEP
        ids[segment.mask] = segment_id
        x, y, width, height = cv2.boundingRect(segment.mask.astype(np.uint8))
        segments_info.append(
            dict(
                id=segment_id,
                category_id=segment.label + 1,
                iscrowd=int(segment.is_crowd),
                area=int(segment.mask.sum()),
                bbox=[x, y, width, height],
            )
        )
    # It imports MMDetection, which takes seconds and is not needed without panoptic labels.
    from mmdet_sag.datasets.coco_instance_panoptic import id_to_rgb

    file_name = _png_name(index)
    cv2.imwrite(str(png_dir / file_name), id_to_rgb(ids)[..., ::-1])
    return dict(image_id=index + 1, file_name=file_name, segments_info=segments_info)


def _polygons(region: BaseGeometry) -> dict:
    parts = [part.simplify(0.02) for part in parts_without_holes(region)]
    # Parts of less than half a pixel are dropped, unless there are no others.
    parts = [part for part in parts if part.area >= 0.5] or [max(parts, key=lambda part: part.area)]
    corners = [np.round(part.exterior.coords[:-1], 2) for part in parts]
    x_min, y_min = np.concatenate(corners).min(axis=0).tolist()
    x_max, y_max = np.concatenate(corners).max(axis=0).tolist()
    return dict(
        segmentation=[corner.ravel().tolist() for corner in corners],
        area=round(sum(Polygon(corner).area for corner in corners), 2),
        bbox=[x_min, y_min, round(x_max - x_min, 2), round(y_max - y_min, 2)],
    )


def _crowd(region: BaseGeometry, image_size: int) -> dict:
    polygons = [list(np.ravel(part.exterior.coords[:-1])) for part in parts_without_holes(region)]
    rle = mask_utils.merge(mask_utils.frPyObjects(polygons, image_size, image_size))
    # COCO's files hold runs as a plain list: the lengths of zeros and ones in turn, down the columns.
    pixels = np.concatenate([[0], mask_utils.decode(rle).ravel(order='F'), [2]]).astype(np.int8)
    edges = np.flatnonzero(np.diff(pixels))
    counts = np.diff(np.concatenate([[0], edges])).tolist()
    return dict(
        segmentation=dict(counts=counts, size=[image_size, image_size]),
        area=int(mask_utils.area(rle)),
        bbox=mask_utils.toBbox(rle).tolist(),
    )
