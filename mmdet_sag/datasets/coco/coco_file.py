"""Reading of annotation files in COCO's format."""

import gc
import json

from ...errors import InputError


def load_coco(path: str, annotations_needed: bool = True) -> dict:
    """Loads an annotation file and checks its outline.

    Args:
        path: Annotation file.
        annotations_needed: Whether a file without annotations, such as the one of COCO's test images, is refused.

    Returns:
        The file's content. ``images``, ``categories`` and ``annotations`` are lists.

    Raises:
        InputError: The file is not valid JSON, or not in COCO's format.
    """
    # The garbage collector would go through the growing content again and again, for half of the time.
    collects = gc.isenabled()
    gc.disable()
    try:
        with open(path, 'rb') as file:
            content = json.load(file)
    except OSError as error:
        raise InputError(f"annotation file '{path}' cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"annotation file '{path}' is not valid JSON ({error}): it may be truncated; copy or export it again"
        ) from error
    finally:
        if collects:
            gc.enable()
    if not isinstance(content, dict):
        raise InputError(
            f"annotation file '{path}' is not in COCO's format: it holds a {type(content).__name__} instead of a "
            'mapping with images, annotations and categories; a file of results cannot be used here'
        )
    needed = ['images', 'categories'] + (['annotations'] if annotations_needed else [])
    missing = [key for key in needed if key not in content]
    if missing:
        raise InputError(
            f"annotation file '{path}' is not in COCO's format: it has no {' and no '.join(missing)}; export it as "
            'COCO instances'
        )
    content.setdefault('annotations', [])
    for key in ('images', 'categories', 'annotations'):
        if not isinstance(content[key], list):
            raise InputError(
                f"annotation file '{path}' is not in COCO's format: {key} is a {type(content[key]).__name__} instead "
                'of a list'
            )
    return content
