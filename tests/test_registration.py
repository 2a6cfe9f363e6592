import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from mmdet.apis import DetInferencer


def python(script: str) -> str:
    """Run a script in a Python of its own: here everything is imported already."""
    return subprocess.run([sys.executable, '-c', script], check=True, capture_output=True, text=True).stdout.strip()


def test_what_commands_without_a_model_need_imports_no_framework(tmp_path):
    tools = Path(__file__).parents[1] / 'tools'
    cv2.imwrite(str(tmp_path / 'a.png'), np.zeros((20, 30, 3), np.uint8))
    square = dict(id=1, image_id=1, category_id=1, bbox=[2, 2, 8, 8], area=64, iscrowd=0)
    content = dict(
        images=[dict(id=1, file_name='a.png', height=20, width=30)],
        annotations=[dict(square, segmentation=[[2, 2, 10, 2, 10, 10, 2, 10]])],
        categories=[dict(id=1, name='square')],
    )
    (tmp_path / 'train.json').write_text(json.dumps(content))
    script = f"""
import runpy, sys
import mmdet_sag.__main__
for name in 'dataset_converters/to_coco.py', 'misc/make_config.py', 'misc/check_dataset.py':
    names = runpy.run_path('{tools}/' + name)
sys.argv[1:] = [{str(tmp_path)!r}]
names['main']()
print(*(name for name in ('torch', 'mmcv', 'mmengine', 'mmdet') if name in sys.modules))
"""
    # Nothing is printed below the report.
    assert python(script).splitlines()[1:] == ['nothing found']


@pytest.mark.parametrize(
    'imports',
    [
        'import mmdet_sag; from mmdet.registry import HOOKS, MODELS',
        # The registries have imported MMDetection's own modules before.
        'from mmdet.registry import HOOKS, MODELS; MODELS.get("MaskRCNN"); HOOKS.get("NumClassCheckHook"); '
        'import mmdet_sag',
    ],
)
def test_classes_are_registered_and_configs_inherit_by_name_before_and_after_mmdetection_is_imported(imports, tmp_path):
    config = tmp_path / 'mine.py'
    config.write_text("_base_ = 'mmdet_sag::centermask_lite/centermask-lite_v39_fpn_ms-4x_coco.py'\nmine = 1\n")
    script = f"""
{imports}
classes = MODELS.get('SAGMaskHead'), HOOKS.get('AtomicCheckpointHook'), mmdet_sag.models.CenterMask
print(*(cls.__name__ for cls in classes))
from mmengine.config import Config
config = Config.fromfile({str(config)!r})
print(config.mine, config.model.backbone.arch, config.model._scope_)
"""
    assert python(script) == 'SAGMaskHead AtomicCheckpointHook CenterMask\n1 V-39 mmdet'


def test_every_registered_class_is_found_by_its_registry():
    script = """
import mmdet_sag, mmdet.registry
from mmdet_sag.registration import LOCATIONS
for name in LOCATIONS:
    registry = getattr(mmdet.registry, name)
    registry.import_from_location()
import pkgutil, importlib
before = {name: set(getattr(mmdet.registry, name).module_dict) for name in LOCATIONS}
for info in pkgutil.walk_packages(mmdet_sag.__path__, 'mmdet_sag.'):
    if not info.name.endswith('torchvision_ext'):
        importlib.import_module(info.name)
print(*(key for name in LOCATIONS for key in set(getattr(mmdet.registry, name).module_dict) - before[name]))
"""
    # The detector of an exported file is built by name only where its module is imported.
    assert python(script) == 'ExportedDetector'


def test_an_inferencer_knows_our_models_and_those_of_mmdetection(monkeypatch):
    monkeypatch.setattr(DetInferencer, '_init_model', lambda *args: SimpleNamespace(cfg=args[1], weights=args[2]))
    monkeypatch.setattr(DetInferencer, '_init_visualizer', lambda *args: None)
    monkeypatch.setattr('mmdet.apis.det_inferencer.revert_sync_batchnorm', lambda model: model)
    ours = DetInferencer('centermask-lite_v39_fpn_ms-4x_coco', 'mine.pth').model
    assert ours.cfg.model.type == 'CenterMask' and ours.weights == 'mine.pth'
    assert DetInferencer('centermask-lite_v39_fpn_ms-4x_coco').model.weights is None
    assert Path(DetInferencer('centermask-lite_demo-14k').model.weights).is_file()
    assert DetInferencer('rtmdet-s').model.weights.startswith('https://download.openmmlab.com/')
    with pytest.raises(ValueError, match='Cannot find model: unet in mmdet'):
        DetInferencer('unet')
