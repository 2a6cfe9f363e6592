from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..datasets.annotation_problems import is_usable_image
from ..datasets.coco_file import load_coco
from ..errors import InputError


@dataclass(frozen=True)
class TrainingDataSummary:
    """The facts about a data set in COCO's format that a config depends on.

    Args:
        root: Folder of the data set.
        ann_files: Annotation file of each split, relative to the folder. ``train`` and ``val`` always exist.
        image_folders: Image folder of each split, relative to the folder.
        classes: Class names in the order of the file.
        num_images: Number of training images with objects.
        num_empty: Number of training images without objects.
        num_objects: Number of training objects of each class.
        most_objects: Number of objects of the training image that has most.
        sizes: Width and height of the training images, shape (N, 2).
        object_sizes: Median square root of the area of the objects of each class, in pixels.
        has_rle: Whether some masks are run-length encoded.
        num_without_mask: Number of objects of each split that have a box and no mask.
    """

    root: Path
    ann_files: dict[str, str]
    image_folders: dict[str, str]
    classes: tuple[str, ...]
    num_images: int
    num_empty: int
    num_objects: dict[str, int]
    most_objects: int
    sizes: np.ndarray
    object_sizes: dict[str, float]
    has_rle: bool
    num_without_mask: dict[str, int]

    @classmethod
    def of_folder(cls, root: Path) -> 'TrainingDataSummary':
        """Read a folder that ``mmdet-sag convert-data`` made, or one in COCO's own layout.

        Raises:
            InputError: A file or folder is missing, or there are no objects.
        """
        if not root.is_dir():
            what = 'is a file' if root.exists() else 'does not exist'
            raise InputError(f"data folder '{root}' {what}: give the folder that mmdet-sag convert-data made")
        paths = {split: path for split in ('train', 'val', 'test') if (path := _annotation_file(root, split))}
        ann_files = {split: path.relative_to(root).as_posix() for split, path in paths.items()}
        folders = {split: f'{_image_folder(root, path).relative_to(root).as_posix()}/' for split, path in paths.items()}
        contents = {split: load_coco(str(path)) for split, path in paths.items()}
        without_mask = {
            split: sum(not a.get('segmentation') for a in _objects(content)) for split, content in contents.items()
        }
        classes, others = (
            [category.get('name') for category in contents[split]['categories'] if isinstance(category, dict)]
            for split in ('train', 'val')
        )
        if classes != others:
            raise InputError(
                f"'{paths['train']}' and '{paths['val']}' have different categories: make both with one run of "
                "'mmdet-sag convert-data'"
            )
        of_training = _of_training(contents['train'], paths['train'])
        return cls(root, ann_files, folders, tuple(classes), num_without_mask=without_mask, **of_training)


def _annotation_file(root: Path, split: str) -> Path | None:
    found = sorted(root.glob(f'annotations/instances_{split}*.json'))
    if len(found) > 1:
        names = ', '.join(path.name for path in found)
        raise InputError(f"'{root / 'annotations'}' has several files for {split} ({names}): leave one")
    if not found and split != 'test':
        raise InputError(
            f"'{root}' has no annotations/instances_{split}.json: make it with 'mmdet-sag "
            f"convert-data {root} --out DIR', and give DIR"
        )
    return found[0] if found else None


def _image_folder(root: Path, ann_file: Path) -> Path:
    name = ann_file.stem.partition('_')[2]
    for folder in (root / name, root / 'images' / name):
        if folder.is_dir():
            return folder
    raise InputError(f"'{root}' has no folder '{name}' for the images of '{ann_file}': put them or a link there")


def _objects(content: dict) -> list[dict]:
    return [item for item in content['annotations'] if isinstance(item, dict) and item.get('iscrowd') != 1]


def _of_training(content: dict, path: Path) -> dict:
    sizes = {image['id']: (image['width'], image['height']) for image in content['images'] if is_usable_image(image)}
    objects = [item for item in _objects(content) if item.get('image_id') in sizes]
    if not objects:
        raise InputError(f"'{path}' has no objects to train on: check the labels that it was made from")
    with_objects = {item['image_id'] for item in objects}
    names = {category.get('id'): category.get('name') for category in content['categories']}
    areas = defaultdict(list)
    for item in objects:
        if isinstance(item.get('area'), (int, float)) and item['area'] > 0:
            areas[names.get(item.get('category_id'))].append(item['area'])
    return dict(
        num_images=len(with_objects),
        num_empty=len(sizes) - len(with_objects),
        num_objects=Counter(names.get(item.get('category_id')) for item in objects),
        most_objects=max(Counter(item['image_id'] for item in objects).values()),
        sizes=np.array([sizes[image_id] for image_id in sorted(with_objects, key=str)], float),
        object_sizes={name: float(np.sqrt(np.median(found))) for name, found in areas.items()},
        has_rle=any(isinstance(item.get('segmentation'), dict) for item in objects),
    )
