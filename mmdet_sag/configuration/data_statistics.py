from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..datasets.annotation_problems import is_usable_image
from ..datasets.coco_file import load_coco
from ..errors import InputError


@dataclass(frozen=True)
class DataStatistics:
    """What the choices of a config depend on in a data set in COCO's format.

    Args:
        root: Folder of the data set.
        ann_files: Annotation file by split, relative to the folder; ``train`` and ``val`` are always there.
        image_folders: Folder of the images by split, likewise.
        classes: Class names in the order of the file.
        num_images: Number of images that have objects, of the training part.
        num_empty: Number of images without any.
        num_objects: Number of its objects by class name.
        sizes: Width and height of its images (N, 2).
        object_sizes: Median of the square roots of the areas of its objects in pixels, by class name.
        has_rle: Whether the mask of an object of it is an RLE.
    """

    root: Path
    ann_files: dict[str, str]
    image_folders: dict[str, str]
    classes: tuple[str, ...]
    num_images: int
    num_empty: int
    num_objects: dict[str, int]
    sizes: np.ndarray
    object_sizes: dict[str, float]
    has_rle: bool

    @classmethod
    def of_folder(cls, root: Path) -> 'DataStatistics':
        """Look at a folder as ``tools/dataset_converters/to_coco.py`` makes it, or one in COCO's own layout.

        Raises:
            InputError: A file or folder is missing, or there is nothing to learn.
        """
        if not root.is_dir():
            what = 'is a file' if root.exists() else 'does not exist'
            raise InputError(f"data folder '{root}' {what}: give the folder that to_coco.py made")
        ann_files, image_folders = {}, {}
        for split in ('train', 'val', 'test'):
            path = _annotation_file(root, split)
            if path is None:
                continue
            ann_files[split] = path.relative_to(root).as_posix()
            image_folders[split] = f'{_image_folder(root, path).relative_to(root).as_posix()}/'
        train, val = (load_coco(str(root / ann_files[split])) for split in ('train', 'val'))
        classes = [category.get('name') for category in train['categories'] if isinstance(category, dict)]
        if classes != [category.get('name') for category in val['categories'] if isinstance(category, dict)]:
            raise InputError(
                f"'{root / ann_files['train']}' and '{root / ann_files['val']}' have different categories: make both "
                "with one run of 'tools/dataset_converters/to_coco.py'"
            )
        return cls(root, ann_files, image_folders, tuple(classes), **_of_training(train, root / ann_files['train']))


def _annotation_file(root: Path, split: str) -> Path | None:
    found = sorted(root.glob(f'annotations/instances_{split}*.json'))
    if len(found) > 1:
        names = ', '.join(path.name for path in found)
        raise InputError(f"'{root / 'annotations'}' has several files for {split} ({names}): leave one")
    if not found and split != 'test':
        raise InputError(
            f"'{root}' has no annotations/instances_{split}.json: make it with 'python "
            f"tools/dataset_converters/to_coco.py {root} --out DIR', and give DIR"
        )
    return found[0] if found else None


def _image_folder(root: Path, ann_file: Path) -> Path:
    name = ann_file.stem.partition('_')[2]
    for folder in (root / name, root / 'images' / name):
        if folder.is_dir():
            return folder
    raise InputError(f"'{root}' has no folder '{name}' for the images of '{ann_file}': put them or a link there")


def _of_training(content: dict, path: Path) -> dict:
    sizes = {image['id']: (image['width'], image['height']) for image in content['images'] if is_usable_image(image)}
    objects = [item for item in content['annotations'] if isinstance(item, dict) and item.get('iscrowd') != 1]
    objects = [item for item in objects if item.get('image_id') in sizes]
    if not objects:
        raise InputError(f"'{path}' has no object to learn: look at the labels that it was made from")
    with_objects = {item['image_id'] for item in objects}
    names = {category.get('id'): category.get('name') for category in content['categories']}
    return dict(
        num_images=len(with_objects),
        num_empty=len(sizes) - len(with_objects),
        num_objects=Counter(names.get(item.get('category_id')) for item in objects),
        sizes=np.array([sizes[image_id] for image_id in sorted(with_objects, key=str)], float),
        object_sizes=_median_sizes(objects, names),
        has_rle=any(isinstance(item.get('segmentation'), dict) for item in objects),
    )


def _median_sizes(objects: Sequence[dict], names: dict) -> dict[str, float]:
    areas: dict[str, list] = {}
    for item in objects:
        if isinstance(item.get('area'), (int, float)) and item['area'] > 0:
            areas.setdefault(names.get(item.get('category_id')), []).append(item['area'])
    return {name: float(np.sqrt(np.median(found))) for name, found in areas.items()}
