"""VGG Image Annotator, versions 1 and 2: a JSON file of regions for all images."""

from pathlib import Path
from typing import Any

from ...errors import InputError
from .labelled_data import LabelledData, ReadOptions
from .source_files import read_json
from .tool_labels import Head, ToolLabels, WithoutArea, ellipse, entries, mapping, numbers, polygon, rectangle

# Of a project; and of the regions alone, where it does not matter which key comes first.
_HEAD = Head('.json', r'^\s*\{\s*"_via_|^\s*\{\s*"[^"]*"\s*:\s*\{(?=.*"filename"\s*:).*"regions"\s*:\s*[\[{]')
_CHOICES = ('dropdown', 'radio', 'checkbox')

is_via = _HEAD.is_in


def read_via(source: Path, options: ReadOptions) -> LabelledData:
    """Read projects and exported annotations of VGG Image Annotator.

    Polygons, rectangles, circles and ellipses are objects; points and polylines have no area. The class is the value of
    ``options.class_attribute``, or of the one attribute with a choice of values, or of the only attribute; without
    attributes, ``options`` names the only class.
    """
    labels = ToolLabels(source, options)
    contents = {path: read_json(path) for path in labels.files(_HEAD)}
    attribute = _class_attribute(contents, source, options)

    def read(index: int, region: dict, size: tuple[int, int]) -> tuple[tuple, list]:
        label = _value(region, attribute) if attribute else options.class_names[0]  # type: ignore[index]
        return (label, index), _polygons(mapping(region.get('shape_attributes')), size)

    for path, content in contents.items():
        for entry in _entries(content):
            image = labels.image(entry.get('filename'), path)
            labels.read_objects(image, enumerate(_regions(entry)), f"region {{}} of '{entry.get('filename')}'", read)
    return labels.data()


def _entries(content: dict) -> list[dict]:
    return entries(list(mapping(content.get('_via_img_metadata', content)).values()))


def _regions(entry: dict) -> list[dict]:
    """Regions of an image; version 1 numbers them in a mapping."""
    regions = entry.get('regions')
    return entries(list(regions.values()) if isinstance(regions, dict) else regions)


def _class_attribute(contents: dict[Path, dict], source: Path, options: ReadOptions) -> str | None:
    """The attribute that is the class; None: regions have none."""
    regions = [item for content in contents.values() for entry in _entries(content) for item in _regions(entry)]
    names = sorted({name for item in regions for name in mapping(item.get('region_attributes'))})
    if options.class_attribute:
        if options.class_attribute not in names:
            raise InputError(f"--class-attribute: '{source}' has no '{options.class_attribute}', but {names}")
        found = [options.class_attribute]
    else:
        kinds = [
            (name, mapping(mapping(mapping(content.get('_via_attributes')).get('region')).get(name)).get('type'))
            for content in contents.values()
            for name in names
        ]
        found = [name for name in names if any((name, kind) in kinds for kind in _CHOICES)]
        found = found if len(found) == 1 else names
    if len(found) > 1:
        raise InputError(f"'{source}': each of {found} may be the class: choose with --class-attribute NAME")
    if found:
        options.refuse_class_names(source)
    elif len(options.class_names or ()) != 1:
        raise InputError(f"'{source}' does not name its classes: give one name with --source-classes NAME")
    return found[0] if found else None


def _value(region: dict, attribute: str) -> str:
    value: Any = mapping(region.get('region_attributes')).get(attribute)
    if isinstance(value, dict):
        chosen = [name for name, is_chosen in value.items() if is_chosen]
        value = chosen[0] if len(chosen) == 1 else None
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"regions without one value of '{attribute}'")
    return value.strip()


def _polygons(shape: dict, size: tuple[int, int]) -> list[list[float]]:
    kind = shape.get('name')
    if kind == 'polygon':
        xs, ys = numbers(shape.get('all_points_x'))[0], numbers(shape.get('all_points_y'))[0]
        if xs.ndim != 1 or xs.shape != ys.shape:
            raise InputError('polygons of fewer than 3 points')
        return polygon(list(zip(xs, ys)), size)
    if kind == 'rect':
        return polygon(rectangle(*numbers(*map(shape.get, ('x', 'y', 'width', 'height'))), 0, (0, 0)), size)
    if kind == 'circle':
        x, y, radius = numbers(*map(shape.get, ('cx', 'cy', 'r')))
        return polygon(ellipse(x, y, radius, radius), size)
    if kind == 'ellipse':
        values = numbers(*map(shape.get, ('cx', 'cy', 'rx', 'ry')), shape.get('theta', 0))
        return polygon(ellipse(*values), size)
    if kind in ('point', 'polyline'):
        raise WithoutArea(f"regions of shape '{kind}', which has no area")
    raise InputError('regions of an unknown shape')
