from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ...errors import InputError
from .coco_writer import SPLITS, check_target, write_data_set
from .label_format import find_format
from .labelled_image import LabelledImage
from .read_options import ReadOptions
from .splitting import split_images


@dataclass
class Conversion:
    """Labels of any known form, on their way to a data set in COCO's format.

    Args:
        sources: Files and folders; several are merged, by the names of their classes.
        options: What the sources do not say.
        format: Key of :data:`FORMATS`; None: found for each source.

    Attributes:
        classes: Class names.
        images: The images with their objects.
        notes: Lines for the user about what was found, left out or assumed.
    """

    sources: Sequence[Path]
    options: ReadOptions = ReadOptions()
    format: str | None = None
    classes: list[str] = field(default_factory=list)
    images: list[LabelledImage] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def read(self) -> None:
        """Read the sources.

        Raises:
            InputError: One of them cannot be used.
        """
        names: dict[tuple, Path] = {}
        for source in self.sources:
            form = find_format(source, None if self.format is None else [self.format])
            data = form.read(source, self.options)
            if not data.images:
                raise InputError(f"'{source}' ({form.title}) has no labelled images: give the folder that holds them")
            self.notes.append(f'{source}: {form.title}, {len(data.images)} images, {len(data.classes)} classes')
            self.notes += data.notes
            self.classes += [name for name in data.classes if name not in self.classes]
            for image in data.images:
                if (image.split, image.name) in names and len(self.sources) > 1:
                    image.name = f'{source.stem}/{image.name}'
                _require_text(image.name, image.path)
                other = names.setdefault((image.split, image.name), image.path)
                if other is not image.path:
                    raise InputError(f"'{other}' and '{image.path}' would have one name: rename one of them")
            self.images += data.images

    def rename(self, new_names: Mapping[str, str]) -> None:
        """Give classes other names; classes of one name become one.

        Raises:
            InputError: There is no such class.
        """
        self._require_classes(new_names, '--rename')
        self._replace_names({name: new_names.get(name, name) for name in self.classes})

    def choose(self, classes: Sequence[str]) -> None:
        """Keep some of the classes, in the given order; images whose objects all go stay, without objects.

        Raises:
            InputError: There is no such class, or one is named twice.
        """
        self._require_classes(classes, '--classes')
        if len(set(classes)) < len(classes):
            raise InputError('--classes names a class twice: name each once')
        self._replace_names({name: name for name in classes})

    def split(self, share: float, seed: int, group_by: str | None, anew: bool) -> None:
        """Divide the images where the sources do not say how.

        Args:
            share: Share of the validation part.
            seed: Another one gives another split.
            group_by: As for :func:`split_images`.
            anew: Whether the sources' own split is ignored.

        Raises:
            InputError: The sources say it for some of the images alone, or one part would be empty.
        """
        given = Counter(image.split for image in self.images)
        if anew or set(given) <= {None} or (set(given) == {'train'} and group_by is None):
            split_images(self.images, share, seed, group_by)
            self.notes.append(
                f'split: {share:g} for validation, seed {seed}' + (f', groups {group_by}' if group_by else '')
            )
        elif None in given or 'train' not in given or 'val' not in given:
            found = ', '.join(f'{count} {split or "no split"}' for split, count in given.items())
            raise InputError(f'the sources give no whole split ({found}): divide the images anew with --split-anew')
        elif group_by is not None:
            raise InputError('--group-by: the sources have a split of their own: ignore it with --split-anew')
        else:
            self.notes.append("split: the sources' own")

    def write(self, out: Path, link: bool = False) -> None:
        """Write the data set, as :func:`write_data_set`.

        Raises:
            InputError: There is nothing to learn, or it cannot be written.
        """
        empty = 0
        for image in self.images:
            whole = [item for item in image.objects if item.segmentation]
            empty += len(image.objects) - len(whole)
            image.objects = whole
        if empty:
            self.notes.append(f'{empty} objects outside their image, or without area: left out')
        if not any(image.objects for image in self.images if image.split == 'train'):
            raise InputError('the training part has no object: look at the labels, or change --classes or the split')
        write_data_set(out, self.images, self.classes, link)

    def check_target(self, out: Path, overwrite: bool) -> None:
        """As :func:`check_target`."""
        check_target(out, self.sources, overwrite)

    def counts(self) -> list[list]:
        """Rows of a table: the images and objects of every class in every split."""
        splits = [split for split in SPLITS if any(image.split == split for image in self.images)]
        rows = [['', *splits]]
        rows.append(['images', *(sum(image.split == split for image in self.images) for split in splits)])
        found = Counter((item.name, image.split) for image in self.images for item in image.objects)
        rows += [[name, *(found[name, split] for split in splits)] for name in self.classes]
        return rows

    def _require_classes(self, names: Sequence[str], option: str) -> None:
        absent = [name for name in names if name not in self.classes]
        if absent:
            raise InputError(
                f"{option}: there is no class '{absent[0]}', but {', '.join(map(repr, self.classes[:20]))}"
            )

    def _replace_names(self, new_names: Mapping[str, str]) -> None:
        self.classes = list(dict.fromkeys(new_names.values()))
        for image in self.images:
            image.objects = [
                replace(item, name=new_names[item.name]) for item in image.objects if item.name in new_names
            ]


def _require_text(name: str, path: Path) -> None:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise InputError(f'the name of {str(path)!r} is not valid UTF-8: rename the file') from error
