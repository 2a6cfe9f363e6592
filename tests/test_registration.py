import subprocess
import sys
from pathlib import Path

import pytest


def python(script: str) -> str:
    """Run a script in a Python of its own: here everything is imported already."""
    return subprocess.run([sys.executable, '-c', script], check=True, capture_output=True, text=True).stdout.strip()


def test_what_commands_without_a_model_need_imports_no_framework():
    tools = Path(__file__).parents[1] / 'tools'
    script = f"""
import runpy, sys
for name in 'dataset_converters/to_coco.py', 'misc/make_config.py', 'misc/check_dataset.py':
    runpy.run_path('{tools}/' + name)
print(*(name for name in ('torch', 'mmcv', 'mmengine', 'mmdet') if name in sys.modules))
"""
    assert python(script) == ''


@pytest.mark.parametrize(
    'imports',
    [
        'import mmdet_sag; from mmdet.registry import HOOKS, MODELS',
        # The registries have imported MMDetection's own modules before.
        'from mmdet.registry import HOOKS, MODELS; MODELS.get("MaskRCNN"); HOOKS.get("NumClassCheckHook"); '
        'import mmdet_sag',
    ],
)
def test_the_classes_are_registered_before_and_after_mmdetection_is_imported(imports):
    script = f"""
{imports}
classes = MODELS.get('SAGMaskHead'), HOOKS.get('AtomicCheckpointHook'), mmdet_sag.models.CenterMask
print(*(cls.__name__ for cls in classes))
"""
    assert python(script) == 'SAGMaskHead AtomicCheckpointHook CenterMask'


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
