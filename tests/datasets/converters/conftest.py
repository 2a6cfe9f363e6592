import json

import pytest
from demo_shapes import make_demo_shapes
from support.label_exports import DemoParts


@pytest.fixture(scope='session')
def demo_parts(tmp_path_factory) -> DemoParts:
    """A small demo data set: content and image folder by split, and the class names."""
    root = tmp_path_factory.mktemp('demo') / 'shapes'
    make_demo_shapes(root, num_train=12, num_val=4, image_size=96)
    parts = {}
    for split in ('train', 'val'):
        content = json.loads((root / f'annotations/instances_{split}2017.json').read_text())
        parts[split] = (content, root / f'{split}2017')
    return DemoParts(parts, tuple(category['name'] for category in parts['train'][0]['categories']), root)
