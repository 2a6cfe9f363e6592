import json
import math
import re
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from ...errors import InputError
from ...fileio import check_writable_folder
from . import cvat, datumaro, instance_masks, json_per_image, label_studio, labelme, pascal_voc, via, yolo
from .coco_data_set import SPLITS, is_coco, read_coco, write_data_set
from .labelled_data import LabelledData, LabelledImage, LabelledObject, ReadOptions
from .masks import box_and_area
from .source_files import NOT_LEARNT, LeftOut, images_below, split_of
from .tool_labels import hint

# Beyond it Pillow, without being told, takes images for an attack.
_LARGE = 178_956_970
# Share of outlines that are rectangles from which they may be boxes.
_MANY_BOXES = 0.5
# More folders than that are parts of one set.
_MOST_FOLDERS = 20
# Roboflow names what it made of one image NAME.rf.HASH.jpg.
_ROBOFLOW_COPY = re.compile(r'(.+)\.rf\.\w+\.\w+')


class LabelFormat(NamedTuple):
    """A format of labels: its name in messages, what recognises a file or folder that has it, and what reads that."""

    title: str
    recognises: Callable[[Path], bool]
    read: Callable[[Path, ReadOptions], LabelledData]


# They are tried in this order: the most distinctive first.
FORMATS = {
    'voc': LabelFormat('Pascal VOC masks', pascal_voc.is_pascal_voc, pascal_voc.read_pascal_voc),
    'voc-boxes': LabelFormat('Pascal VOC boxes', pascal_voc.is_voc_boxes, pascal_voc.read_voc_boxes),
    'cityscapes': LabelFormat('Cityscapes instance ids', instance_masks.is_cityscapes, instance_masks.read_cityscapes),
    'yolo': LabelFormat('YOLO segmentation', yolo.is_yolo, yolo.read_yolo),
    'labelme': LabelFormat('LabelMe', labelme.is_labelme, labelme.read_labelme),
    'cvat': LabelFormat('CVAT for images', cvat.is_cvat, cvat.read_cvat),
    'via': LabelFormat('VGG Image Annotator', via.is_via, via.read_via),
    'label-studio': LabelFormat('Label Studio', label_studio.is_label_studio, label_studio.read_label_studio),
    'isat': LabelFormat('ISAT', json_per_image.is_isat, json_per_image.read_isat),
    'supervisely': LabelFormat('Supervisely', json_per_image.is_supervisely, json_per_image.read_supervisely),
    'datumaro': LabelFormat('Datumaro', datumaro.is_datumaro, datumaro.read_datumaro),
    'sa-1b': LabelFormat('SA-1B', json_per_image.is_segment_anything, json_per_image.read_segment_anything),
    'coco': LabelFormat('COCO', is_coco, read_coco),
    'object-masks': LabelFormat(
        'a picture for each object', instance_masks.is_object_masks, instance_masks.read_object_masks
    ),
    'masks': LabelFormat(
        'instance-mask pictures', instance_masks.is_instance_masks, instance_masks.read_instance_masks
    ),
}


@dataclass
class LabelConversion:
    """Converts labels of any known format to a data set in COCO's format.

    Args:
        sources: Files and folders. Their classes are merged by name.
        options: What the sources do not say.
        format: Key of :data:`FORMATS`; None: detected for each source.
        max_left_out: The largest share of a source's images or objects that may be left out because they are broken.
        merge: Whether an image that two files label differently has the objects of both.

    The attribute ``notes`` has lines that tell the user what was found, left out or assumed.
    """

    sources: Sequence[Path]
    options: ReadOptions = ReadOptions()
    format: str | None = None
    max_left_out: float = 0.1
    merge: bool = False
    classes: list[str] = field(default_factory=list)
    images: list[LabelledImage] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    left_out: LeftOut = field(default_factory=LeftOut)
    _in_two_splits: str | None = None

    def check_target(self, out: Path, overwrite: bool) -> None:
        """Check that the data set can be written, or replace an earlier one. Call it first: reading can take long.

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
        check_writable_folder(place, '--out')

    def read(self) -> None:
        """Read the sources.

        Raises:
            InputError: A source cannot be used.
        """
        folder = self.options.image_folder
        if folder and not folder.is_dir():
            raise InputError(f"--images '{folder}' is not a folder: name the one of the images")
        images: dict[Path | int, LabelledImage] = {}
        names = set()
        if self.format is None and self.options.image_folder is None:
            self.sources = [part for source in self.sources for part in _folders_of_formats(source)]
        for source in self.sources:
            form = _find_format(source, self.format)
            data = form.read(source, self.options)
            self._check_left_out(source, data)
            if not data.images:
                raise InputError(f"'{source}' ({form.title}) has no labelled images: give the folder that has them")
            self.notes.append(f'{source}: {form.title}, {len(data.images)} images, {len(data.classes)} classes')
            self.notes += data.notes
            self.classes = list(dict.fromkeys(self.classes + data.classes))
            repeated = 0
            for image in data.images:
                image.origin = image.origin or source
                # An image that lies in a label file has no path of its own.
                other = images.setdefault(image.path.resolve() if image.content is None else id(image), image)
                if other is not image:
                    self._join(other, image)
                    repeated += 1
                    continue
                if (image.split, image.name) in names and len(self.sources) > 1:
                    image.name = f'{source.stem}/{image.name}'
                names.add((image.split, image.name))
            if repeated:
                self.notes.append(f'{repeated} images are named more than once: each is taken once')
        self.images = list(images.values())
        self._find_boxes()
        large = [image.path for image in self.images if math.prod(image.size) > _LARGE]
        if large:
            self.notes.append(
                f"warning: {len(large)} images have more than {_LARGE // 10**6} megapixels, e.g. '{large[0]}': "
                'training needs gigabytes of memory for each; cut them into tiles'
            )

    def _find_boxes(self) -> None:
        """Take outlines that are upright rectangles for boxes if that is asked for, and else say how many there are."""
        objects = [(image, i) for image in self.images for i in range(len(image.objects))]
        boxes = [(image, i) for image, i in objects if _is_box(image.objects[i].segmentation)]
        if self.options.boxes:
            for image, i in boxes:
                box, area = box_and_area(image.objects[i].segmentation)
                image.objects[i] = replace(image.objects[i], segmentation=[], bbox=box, area=area)
            self.notes.append(f'{len(boxes)} of {len(objects)} objects have a box and no mask')
        elif len(boxes) > _MANY_BOXES * len(objects):
            self.notes.append(
                f'{len(boxes)} of {len(objects)} outlines are upright rectangles: if they are boxes, give --boxes, '
                'and masks are learnt from them'
            )

    def _check_left_out(self, source: Path, data: LabelledData) -> None:
        sound = dict(images=len(data.images), objects=sum(len(image.objects) for image in data.images))
        for kind, errors in data.left_out.items():
            self.left_out.setdefault(kind, []).extend(errors)
            # An object may lose a polygon, and what is not learnt is not broken.
            if kind not in sound:
                continue
            total = len(errors) + sound[kind]
            share = len(errors) / total
            if share > self.max_left_out or not sound[kind]:
                reason = Counter(error.reason for error in errors).most_common(1)[0][0]
                example = next(error for error in errors if error.reason == reason)
                enough = math.ceil(share * 100) / 100
                remedy = f'; {len(errors)} of {total} {kind} cannot be used' if len(errors) > 1 else ''
                if sound[kind]:
                    remedy += f'; leave out what is broken with --max-left-out {enough:g}'
                raise InputError(f'{example}{remedy}')

    def _join(self, first: LabelledImage, second: LabelledImage) -> None:
        """Make one image of two readings of the same file."""
        # Some data sets test on the validation part.
        splits = {first.split, second.split} - {None}
        if 'train' in splits and len(splits) > 1:
            self._in_two_splits = self._in_two_splits or (
                f"image '{first.path}' is in {first.split} ('{first.origin}') and in {second.split} ('{second.origin}')"
            )
        first.split = first.split or second.split
        known = {_key(item) for item in first.objects}
        others = {_key(item) for item in second.objects}
        if known == others:
            return
        if first.origin != second.origin and not self.merge:
            raise InputError(
                f"'{first.origin}' and '{second.origin}' label '{first.path}' differently ({len(first.objects)} and "
                f'{len(second.objects)} objects): leave one out with --skip FILE, or take the objects of both with '
                '--merge'
            )
        first.objects += [item for item in second.objects if _key(item) not in known]

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
        """Split the images as :func:`split_images` does, unless the sources do; ``resplit`` ignores their split.

        Raises:
            InputError: The sources split only some images, or a part would be empty.
        """
        if self._in_two_splits and not resplit:
            raise InputError(f'{self._in_two_splits}: correct the lists, or ignore them with --resplit')
        given = Counter(image.split for image in self.images)
        originals = _originals(self.images)
        if resplit or len(given) == 1:
            names = Counter(image.name for image in self.images)
            splits = [image.split for image in self.images]
            split_images(self.images, share, seed, group_by, originals)
            for image, split in zip(self.images, splits):
                if names[image.name] > 1 and split:
                    image.name = f'{split}/{image.name}'
            groups = f', groups {group_by}' if group_by else ''
            self.notes.append(f'split: {share:g} for validation, seed {seed}{groups}')
            copies = len(self.images) - len(set(originals))
            if copies:
                self.notes.append(f'{copies} images are copies of others: each is in the part of its original')
        elif None in given or 'train' not in given or 'val' not in given:
            found = ', '.join(f'{count} {split or "no split"}' for split, count in given.items())
            raise InputError(f'the sources split only some images ({found}): split all of them with --resplit')
        elif group_by is not None:
            raise InputError('--group-by: the sources have a split: ignore it with --resplit')
        else:
            self.notes.append("split: the sources' own")
            self._note_leaks(originals)
        places: dict[tuple, Path] = {}
        for image in self.images:
            try:
                image.name.encode()
            except UnicodeEncodeError as error:
                raise InputError(f'the name of {str(image.path)!r} is not valid UTF-8: rename the file') from error
            other = places.setdefault((image.split, image.name), image.path)
            if other is not image.path:
                raise InputError(f"'{other}' and '{image.path}' would have the same name: rename one of them")

    def _note_leaks(self, originals: Sequence[int]) -> None:
        learnt = {number: image for number, image in zip(originals, self.images) if image.split == 'train'}
        for split in SPLITS[1:]:
            part = [(number, image) for number, image in zip(originals, self.images) if image.split == split]
            copies = [(image, learnt[number]) for number, image in part if number in learnt]
            if copies:
                self.notes.append(
                    f"warning: {len(copies)} of {len(part)} {split} images are copies of training images ('"
                    f"{copies[0][0].path}' of '{copies[0][1].path}'), so the AP will be too high: "
                    '--resplit makes another split, with copies of an image in one part'
                )

    def write(self, out: Path, link: bool = False) -> None:
        """Write the data set; see :func:`write_data_set`.

        Raises:
            InputError: The training part has no object, or the folder cannot be written.
        """
        for image in self.images:
            kept = [item for item in image.objects if item.segmentation or item.bbox]
            for _ in range(len(image.objects) - len(kept)):
                self.left_out.add(NOT_LEARNT, f"'{image.path}'", 'objects outside their image, or without area')
            image.objects = kept
        if not any(not item.is_crowd for image in self.images if image.split == 'train' for item in image.objects):
            raise InputError('the training part has no object: check the labels, or change --classes or the split')
        write_data_set(out, self.images, self.classes, link, self.left_out)

    def counts(self) -> list[list]:
        """Rows of a table: the number of images, of objects of each class, and of crowd regions, in each split."""
        images = Counter(image.split for image in self.images)
        items = [(item, image.split) for image in self.images for item in image.objects]
        objects = Counter((item.name, split) for item, split in items if not item.is_crowd)
        crowds = Counter(split for item, split in items if item.is_crowd)
        splits = [split for split in SPLITS if images[split]]
        rows = [['', *splits], ['images', *(images[split] for split in splits)]]
        rows += [[name, *(objects[name, split] for split in splits)] for name in self.classes]
        boxes = Counter(split for item, split in items if not item.segmentation)
        if boxes:
            rows.append(['(of them boxes without mask)', *(boxes[split] for split in splits)])
        return rows + ([['(crowds: not learnt)', *(crowds[split] for split in splits)]] if crowds else [])

    def left_out_counts(self) -> list[list]:
        """Rows of a table: for each reason, how many images or objects were left out, and an example."""
        rows = [['left out', 'count', 'example']]
        for kind, errors in self.left_out.items():
            counts = Counter(error.reason for error in errors)
            first = {error.reason: error.place for error in reversed(errors)}
            rows += [[f'{kind}: {reason}', count, first[reason]] for reason, count in counts.most_common()]
        return rows

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


def split_images(
    images: Sequence[LabelledImage],
    share: float,
    seed: int = 0,
    group_by: str | None = None,
    originals: Sequence[int] | None = None,
) -> None:
    """Set the split of each image to ``'train'`` or ``'val'``, whose share is between 0 and 1.

    The split depends only on hashes of the names: it is the same on every machine, and images that are added later
    move few of the others. Images stay together if the regular expression ``group_by`` finds the same text in their
    names, or if its first group does. ``originals`` has for each image a number that it shares with its copies; copies
    stay together, too.

    Raises:
        InputError: The expression is invalid or does not match a name, or a part would be empty.
    """
    if not 0 < share < 1:
        raise InputError(f'the share of the validation part is {share:g}: give one between 0 and 1, such as --val 0.2')
    names = [_group(image.name, group_by) for image in images]
    roots = _joined(list(zip(names, originals or names)))
    members: dict[int, list[int]] = {}
    for index, root in enumerate(roots):
        members.setdefault(root, []).append(index)
    groups = {min(names[index] for index in part): [images[index] for index in part] for part in members.values()}
    if len(groups) < 2:
        what = 'group' if group_by else 'image (copies are one)' if len(images) > 1 else 'image'
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


def _originals(images: Sequence[LabelledImage]) -> list[int]:
    """For each image a number that it shares with its copies: equal files, and what Roboflow made of one image."""
    sizes = [len(image.content) if image.content else image.path.stat().st_size for image in images]
    repeated = Counter(sizes)
    keys: list[list] = []
    for index, (image, size) in enumerate(zip(images, sizes)):
        found = _ROBOFLOW_COPY.fullmatch(image.name)
        keys.append([index, *([found[1]] if found else [])])
        if repeated[size] > 1:
            keys[-1].append(sha256(image.content or image.path.read_bytes()).digest())
    return _joined(keys)


def _joined(keys: Sequence[Sequence]) -> list[int]:
    """For each entry a number that it shares with those that have a key in common with it, also through others."""
    above: dict = {}

    def root(key: Hashable) -> Hashable:
        while above.setdefault(key, key) != key:
            key = above[key]
        return key

    for first, *others in keys:
        for other in others:
            above[root(other)] = root(first)
    numbers: dict = {}
    return [numbers.setdefault(root(first), len(numbers)) for first, *_ in keys]


def _key(item: LabelledObject) -> str:
    mask = item.segmentation
    # Two exports of the same labels may round differently.
    rounded = mask if isinstance(mask, dict) else [[round(float(value), 2) for value in part] for part in mask]
    return json.dumps([item.name, item.is_crowd, rounded or item.bbox])


def _is_box(mask: list | dict) -> bool:
    """Whether a mask is one polygon of the four corners of an upright rectangle."""
    if not isinstance(mask, list) or len(mask) != 1 or len(mask[0]) not in (8, 10):
        return False
    xs, ys = mask[0][0::2], mask[0][1::2]
    return len(set(xs)) == len(set(ys)) == 2 and len(set(zip(xs, ys))) == 4


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


def _folders_of_formats(source: Path) -> list[Path]:
    """The subfolders of a folder whose labels are all there, with their images and in several formats; else itself."""
    entries = [path for path in source.iterdir() if not path.name.startswith('.')] if source.is_dir() else []
    folders = sorted(path for path in entries if path.is_dir() and split_of(path.name) is None)
    others = {path.suffix.lower() for path in entries if path not in folders}
    if not 2 <= len(folders) <= _MOST_FOLDERS or not others <= {'.md', '.txt'} or not all(map(images_below, folders)):
        return [source]
    keys = {next((key for key, form in FORMATS.items() if form.recognises(folder)), None) for folder in folders}
    # The folders of one set of mask pictures may look like several.
    return folders if len(keys) > 1 and keys.isdisjoint((None, 'masks', 'object-masks', 'cityscapes')) else [source]


def _find_format(source: Path, key: str | None) -> LabelFormat:
    if not source.exists():
        raise InputError(f"'{source}' does not exist: give the folder or file of the labels")
    for form in FORMATS.values() if key is None else [FORMATS[key]]:
        if form.recognises(source):
            return form
    if text := hint(source):
        raise InputError(text)
    known = ', '.join(form.title for form in FORMATS.values())
    raise InputError(
        f"'{source}' has no known label format ({known}): name its format with --format, and see docs/your_data.md for "
        'the layouts'
    )
