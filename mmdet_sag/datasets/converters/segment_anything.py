"""SA-1B: a JSON file of masks without classes beside each image, as Segment Anything's generator writes them."""

import re
from pathlib import Path

from ...errors import InputError
from .labelled_data import LabelledData, ReadOptions
from .source_files import read_json
from .tool_labels import ToolLabels, entries, files_that_begin, mapping, run_lengths

_HEAD = re.compile(r'^\s*\{\s*"image"\s*:\s*\{[^{}]*"image_id"[^{}]*\}\s*,\s*"annotations"\s*:')


def is_segment_anything(source: Path) -> bool:
    """Whether a file, or one below a folder, is of SA-1B."""
    return any(files_that_begin(source, '.json', _HEAD))


def read_segment_anything(source: Path, options: ReadOptions) -> LabelledData:
    """Read masks of SA-1B. All have the only class.

    Args:
        source: A JSON file, or a folder of them, with the images.
        options: The name of the class; ``image_folder``, if the images are elsewhere.

    Raises:
        InputError: The class has no name, a file is damaged, or the images are missing.
    """
    if len(options.class_names or ()) != 1:
        raise InputError(f"'{source}' has masks without classes: give one name with --source-classes NAME")
    (label,) = options.class_names  # type: ignore[misc]
    labels = ToolLabels(source, options)
    for path in files_that_begin(source, '.json', _HEAD):
        with labels.left_out.collect('images'):
            content = read_json(path)
            info = mapping(content.get('image'))
            image = labels.image(info.get('file_name'), path, (info.get('width'), info.get('height')), 'turned')
            labels.read_objects(
                image,
                entries(content.get('annotations')),
                f"annotation {{}} of '{path}'",
                lambda index, item, size: ((label, index), [run_lengths(item.get('segmentation'), size)]),
            )
    return labels.data()
