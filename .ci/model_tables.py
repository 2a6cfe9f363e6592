#!/usr/bin/env python
"""Writes the tables of models in configs/*/README.md and docs/checkpoints.md from the metafiles.

A table stands between the lines ``<!-- models -->`` and ``<!-- /models -->``. With ``--check``, nothing is written, and
the exit status is 1 if a table differs from the metafiles.
"""

import re
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
START, END = '<!-- models -->\n', '<!-- /models -->\n'
DETECTORS = {
    'mask-rcnn': 'Mask R-CNN',
    'cascade-mask-rcnn': 'Cascade Mask R-CNN',
    'htc': 'HTC',
    'scnet': 'SCNet',
    'centermask-first-lite': 'Lite',
    'centermask-rtmdet-tiny': 'RTMDet-tiny',
    'centermask-rtmdet-s': 'RTMDet-s',
    'centermask-rtmdet-m': 'RTMDet-m',
    'centermask-yolox-s': 'YOLOX-s',
    'centermask-gfl': 'GFL',
    'centermask-vfnet': 'VFNet',
    'centermask-atss': 'ATSS',
    'centermask-points-fcos': 'FCOS',
}
BACKBONES = dict(mv2='MobileNetV2', dla34='DLA-34', hourglass104='Hourglass-104')
METRICS = ('box AP', 'boxes S / M / L', 'mask AP', 'masks S / M / L', 'PQ')


def metafiles() -> list[dict]:
    """The metafiles in the order of model-index.yml, without the model that was trained here: it is not of COCO."""
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text())
    found = [yaml.safe_load((ROOT / path).read_text()) for path in index['Import']]
    return [{**metafile, 'Models': [m for m in metafile['Models'] if 'Weights' not in m]} for metafile in found]


def label(model: dict) -> str:
    """What tells a model from the others of its collection, e.g. ``V-39-DCN``."""
    detector, backbone = model['Name'].removeprefix('box-supervised_').split('_')[:2]
    if backbone[0].isdigit():
        # MMDetection's names, such as rtmdet-s_8xb32-300e_coco, leave out a detector's own backbone.
        return DETECTORS[detector]
    number = f'{backbone[0].upper()}-{backbone[1:]}'.replace('-dcn', '-DCN')
    backbone = BACKBONES.get(backbone, number)
    parts = f'{DETECTORS.get(detector, "")} {backbone}'.strip()
    note = model['Metadata'].get('Note')
    return f'{parts}, {note}' if note else parts


def schedule(model: dict) -> str:
    """E.g. ``3x, multi-scale``, or ``300e`` for 300 epochs."""
    parts = model['Name'].split('_')
    length = next(part for part in parts if part[-1] in 'xe' and part[-2].isdigit())
    length = re.sub(r'^\d+xb\d+-(crop512-)?', '', length)
    return f'{length[3:]}, multi-scale' if length.startswith('ms-') else length


def metrics(model: dict) -> dict[str, str]:
    """Results by name; of sizes too, if they were published."""
    found = {name: str(value) for result in model.get('Results', []) for name, value in result['Metrics'].items()}
    return {**found, **{name: model['Metadata'][name] for name in METRICS if name in model['Metadata']}}


def measured_on(model: dict) -> str:
    """Images that the results are of, with the number of a footnote."""
    if 'Results' not in model:
        return ''
    split, footnote = model['Metadata'].get('Measured On', 'val2017'), model['Metadata'].get('Footnote')
    return f'{split} [{footnote}]' if footnote else split


def source(model: dict) -> str:
    """Whose the results are."""
    text = model['Metadata']['Results Source']
    if 'none known' in text:
        return 'none known'
    publisher = text[text.index('(') + 1 : text.index(')')].removesuffix(', CenterMask')
    return f'authors, {publisher}, {measured_on(model)}'


def table(header: list[str], rows: list[list[str]], num_left: int) -> str:
    """Markdown of a table whose first columns are aligned on the left."""
    rule = [':--'] * num_left + [':-:'] * (len(header) - num_left)
    lines = (''.join(f' {cell} |' if cell else ' |' for cell in row) for row in (header, rule, *rows))
    return ''.join(f'|{line}\n' for line in lines)


def collection_table(models: list[dict]) -> str:
    """The table of a README of ``configs/``."""
    columns = [name for name in METRICS if any(name in metrics(model) for model in models)] or ['box AP', 'mask AP']
    rows = [
        [
            label(model),
            schedule(model),
            *(metrics(model).get(name, '-') for name in columns),
            source(model),
            f'[config](./{Path(model["Config"]).name})',
        ]
        for model in models
    ]
    return table(['Model', 'Schedule', *columns, 'Results', 'Config'], rows, num_left=1)


def published_file(model: dict, collection: str) -> str:
    """The authors' file, with its address if it is public."""
    about = model['Metadata']
    if 'Published File' in about:
        return f'[{about["Published File"]}]({about["Published At"]})'
    title = f'{label(model)} with SAG-Mask' if collection == 'SAG-Mask' else f'{collection} {label(model)}'
    return f'CenterMask2: {title}' if 'Results' in model else f'none known ({title})'


def zoo_table(collections: list[dict]) -> str:
    """The table of docs/checkpoints.md."""
    rows = []
    for metafile in collections:
        name = metafile['Collections'][0]['Name'].removesuffix('-First').removesuffix('-Any')
        for model in metafile['Models']:
            values = [metrics(model).get(key, '-' if key != 'PQ' else '') for key in ('box AP', 'mask AP', 'PQ')]
            config = f'`{model["Config"].removeprefix("configs/")}`'
            rows.append([published_file(model, name), config, *values, measured_on(model)])
    return table(["authors' file", 'config', 'box AP', 'mask AP', 'PQ', 'measured on'], rows, num_left=2)


def with_table(text: str, made: str) -> str:
    """A page with its table replaced."""
    before, rest = text.split(START)
    _, after = rest.split(END)
    return f'{before}{START}{made}{END}{after}'


def main() -> None:
    collections = metafiles()
    tables = {ROOT / 'docs/checkpoints.md': zoo_table(collections)}
    for metafile in collections:
        tables[ROOT / metafile['Collections'][0]['README']] = collection_table(metafile['Models'])
    differing = []
    for page, made in tables.items():
        text = page.read_text()
        if with_table(text, made) != text:
            differing.append(str(page.relative_to(ROOT)))
            if '--check' not in sys.argv[1:]:
                page.write_text(with_table(text, made))
    if '--check' in sys.argv[1:] and differing:
        sys.exit(f'error: tables differ from the metafiles in {", ".join(differing)}: run .ci/model_tables.py')


if __name__ == '__main__':
    main()
