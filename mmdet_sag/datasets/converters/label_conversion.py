import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from ...errors import InputError
from ...fileio import check_writable_folder
from .coco_data_set import SPLITS, is_coco, read_coco, write_data_set
from .cvat import is_cvat, read_cvat
from .instance_masks import is_cityscapes, is_instance_masks, read_cityscapes, read_instance_masks
from .label_studio import is_label_studio, read_label_studio
from .labelled_data import LabelledData, LabelledImage, ReadOptions
from .labelme import is_labelme, read_labelme
from .object_masks import is_object_masks, read_object_masks
from .pascal_voc import is_pascal_voc, read_pascal_voc
from .via import is_via, read_via
from .yolo import is_yolo, read_yolo


class LabelFormat(NamedTuple):
    """A format of labels.

    Args:
        title: Its name in messages.
        recognises: Whether a file or folder has this format.
        read: Reads the file or folder.
    """

    title: str
    recognises: Callable[[Path], bool]
    read: Callable[[Path, ReadOptions], LabelledData]


# They are tried in this order: the most distinctive first.
FORMATS = {
    'voc': LabelFormat('Pascal VOC masks', is_pascal_voc, read_pascal_voc),
    'cityscapes': LabelFormat('Cityscapes instance ids', is_cityscapes, read_cityscapes),
    'yolo': LabelFormat('YOLO segmentation', is_yolo, read_yolo),
    'labelme': LabelFormat('LabelMe', is_labelme, read_labelme),
    'cvat': LabelFormat('CVAT for images', is_cvat, read_cvat),
    'via': LabelFormat('VGG Image Annotator', is_via, read_via),
    'label-studio': LabelFormat('Label Studio', is_label_studio, read_label_studio),
    'coco': LabelFormat('COCO', is_coco, read_coco),
    'object-masks': LabelFormat('a picture for each object', is_object_masks, read_object_masks),
    'masks': LabelFormat('instance-mask pictures', is_instance_masks, read_instance_masks),
}


@dataclass
class LabelConversion:
    """Converts labels of any known format to a data set in COCO's format.

    Args:
        sources: Files and folders. Their classes are merged by name.
        options: What the sources do not say.
        format: Key of :data:`FORMATS`; None: detected for each source.

    Attributes:
        classes: Class names.
        images: The images with their objects.
        notes: Lines that tell the user what was found, left out or assumed.
    """

    sources: Sequence[Path]
    options: ReadOptions = ReadOptions()
    format: str | None = None
    classes: list[str] = field(default_factory=list)
    images: list[LabelledImage] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def check_target(self, out: Path, overwrite: bool) -> None:
        """Check that the data set can be written. Call it first: reading can take long.

        Args:
            out: Folder of the data set.
            overwrite: Whether an earlier data set may be replaced.

        Raises:
            InputError: The folder holds other files, or cannot be written.
        """
        place = out.resolve()
        for source in map(Path.resolve, self.sources):
            if place == source or place in source.parents or (source.is_dir() and source in place.parents):
                raise InputError(f"--out '{out}' and '{source}' lie one in the other: name another folder")
        if place.exists() and not place.is_dir():
            raise InputError(f"--out '{out}' is a file: name a folder")
        found = {path.name for path in place.iterdir()} if place.is_dir() else set()
        if found and not overwrite:
            raise InputError(
                f"--out '{out}' exists: name another folder, or replace an earlier data set with --overwrite"
            )
        others = found - {'annotations', *SPLITS}
        if others or (found and 'annotations' not in found):
            raise InputError(
                f"--out '{out}' has files that this tool did not write ({', '.join(sorted(others)[:3])}): name another "
                'folder'
            )
        check_writable_folder(place.parent, '--out')

    def read(self) -> None:
        """Read the sources.

        Raises:
            InputError: A source cannot be used.
        """
        paths: dict[tuple, Path] = {}
        for source in self.sources:
            form = _find_format(source, self.format)
            data = form.read(source, self.options)
            if not data.images:
                raise InputError(f"'{source}' ({form.title}) has no labelled images: give the folder that has them")
            self.notes.append(f'{source}: {form.title}, {len(data.images)} images, {len(data.classes)} classes')
            self.notes += data.notes
            self.classes += [name for name in data.classes if name not in self.classes]
            for image in data.images:
                if (image.split, image.name) in paths and len(self.sources) > 1:
                    image.name = f'{source.stem}/{image.name}'
                try:
                    image.name.encode()
                except UnicodeEncodeError as error:
                    raise InputError(f'the name of {str(image.path)!r} is not valid UTF-8: rename the file') from error
                other = paths.setdefault((image.split, image.name), image.path)
                if other is not image.path:
                    raise InputError(f"'{other}' and '{image.path}' would have the same name: rename one of them")
            self.images += data.images

    def rename(self, new_names: Mapping[str, str]) -> None:
        """Rename classes. Classes that get the same name are merged.

        Raises:
            InputError: A class does not exist.
        """
        self._check_classes(new_names, '--rename')
        self._replace_names({name: new_names.get(name, name) for name in self.classes})

    def choose(self, classes: Sequence[str]) -> None:
        """Keep some classes, in this order. Images that lose all objects stay.

        Raises:
            InputError: A class does not exist, or is named twice.
        """
        self._check_classes(classes, '--classes')
        if len(set(classes)) < len(classes):
            raise InputError('--classes names a class twice: name each once')
        self._replace_names({name: name for name in classes})

    def split(self, share: float, seed: int, group_by: str | None, resplit: bool) -> None:
        """Split the images into training and validation, unless the sources do.

        Args:
            share: Share of the validation part.
            seed: Seed of the split.
            group_by: As in :func:`split_images`.
            resplit: Whether to ignore the sources' split.

        Raises:
            InputError: The sources split only some images, or a part would be empty.
        """
        given = Counter(image.split for image in self.images)
        if resplit or set(given) <= {None} or (set(given) == {'train'} and group_by is None):
            split_images(self.images, share, seed, group_by)
            groups = f', groups {group_by}' if group_by else ''
            self.notes.append(f'split: {share:g} for validation, seed {seed}{groups}')
        elif None in given or 'train' not in given or 'val' not in given:
            found = ', '.join(f'{count} {split or "no split"}' for split, count in given.items())
            raise InputError(f'the sources split only some images ({found}): split all of them with --resplit')
        elif group_by is not None:
            raise InputError('--group-by: the sources have a split: ignore it with --resplit')
        else:
            self.notes.append("split: the sources' own")

    def write(self, out: Path, link: bool = False) -> None:
        """Write the data set; see :func:`write_data_set`.

        Raises:
            InputError: The training part has no object, or the folder cannot be written.
        """
        count = sum(len(image.objects) for image in self.images)
        for image in self.images:
            image.objects = [item for item in image.objects if item.segmentation]
        empty = count - sum(len(image.objects) for image in self.images)
        if empty:
            self.notes.append(f'{empty} objects outside their image, or without area: left out')
        if not any(image.objects for image in self.images if image.split == 'train'):
            raise InputError('the training part has no object: check the labels, or change --classes or the split')
        write_data_set(out, self.images, self.classes, link)

    def counts(self) -> list[list]:
        """Rows of a table: the number of images, and of objects of each class, in each split."""
        images = Counter(image.split for image in self.images)
        objects = Counter((item.name, image.split) for image in self.images for item in image.objects)
        splits = [split for split in SPLITS if images[split]]
        rows = [['', *splits], ['images', *(images[split] for split in splits)]]
        return rows + [[name, *(objects[name, split] for split in splits)] for name in self.classes]

    def _check_classes(self, names: Sequence[str], option: str) -> None:
        absent = [name for name in names if name not in self.classes]
        if absent:
            known = ', '.join(map(repr, self.classes[:20]))
            raise InputError(f"{option}: there is no class '{absent[0]}': the classes are {known}")

    def _replace_names(self, new_names: Mapping[str, str]) -> None:
        self.classes = list(dict.fromkeys(new_names.values()))
        for image in self.images:
            image.objects = [
                replace(item, name=new_names[item.name]) for item in image.objects if item.name in new_names
            ]


def split_images(images: Sequence[LabelledImage], share: float, seed: int = 0, group_by: str | None = None) -> None:
    """Set the split of each image to ``'train'`` or ``'val'``.

    The split depends only on hashes of the names: it is the same on every machine, and images that are added later
    move few of the others.

    Args:
        images: The images.
        share: Share of the validation part, between 0 and 1.
        seed: Seed of the split.
        group_by: Regular expression. Images stay together if it finds the same text in their names, or if its first
            group does.

    Raises:
        InputError: The expression is invalid or does not match a name, or a part would be empty.
    """
    if not 0 < share < 1:
        raise InputError(f'the share of the validation part is {share:g}: give one between 0 and 1, such as --val 0.2')
    groups: dict[str, list[LabelledImage]] = {}
    for image in images:
        groups.setdefault(_group(image.name, group_by), []).append(image)
    if len(groups) < 2:
        what = 'group' if group_by else 'image'
        raise InputError(f'there is {len(groups)} {what} to split, and both parts need one: give more images')
    order = sorted(groups, key=lambda name: sha256(f'{seed}:{name}'.encode()).digest())
    wanted = share * len(images)
    taken = 0
    for place, name in enumerate(order):
        # The group that comes nearest to the share is the last; both parts get at least one.
        is_val = place == 0 or (place < len(order) - 1 and taken + len(groups[name]) / 2 <= wanted)
        if not is_val:
            wanted = -1
        for image in groups[name]:
            image.split = 'val' if is_val else 'train'
        taken += len(groups[name])


def _group(name: str, pattern: str | None) -> str:
    if pattern is None:
        return name
    try:
        found = re.search(pattern, name)
    except re.error as error:
        raise InputError(f"--group-by '{pattern}' is not a regular expression ({error}): correct it") from error
    if found is None:
        raise InputError(f"--group-by '{pattern}' does not match '{name}': give an expression that matches every name")
    return found[1] if found.re.groups and found[1] is not None else found[0]


def _find_format(source: Path, key: str | None) -> LabelFormat:
    if not source.exists():
        raise InputError(f"'{source}' does not exist: give the folder or file of the labels")
    for form in FORMATS.values() if key is None else [FORMATS[key]]:
        if form.recognises(source):
            return form
    known = ', '.join(form.title for form in FORMATS.values())
    raise InputError(
        f"'{source}' has no known label format ({known}): name its format with --format, and see docs/your_data.md for "
        'the layouts'
    )
