from pathlib import Path

import pytest
import yaml
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

pytest.importorskip('mmseg', reason='needs MMSegmentation: pip install -r requirements/segmentation.txt')
FOLDER = Path(__file__).parents[2] / 'configs/sa_unet'
CONFIGS = sorted(FOLDER.glob('*.py'))


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_a_config_builds_the_papers_network_for_its_data(path):
    config = Config.fromfile(path)
    with DefaultScope.overwrite_default_scope('mmseg'):
        model = MODELS.build(config.model)
    assert sum(parameter.numel() for parameter in model.parameters()) == 537_299
    metric = dict(type='mmdet.VesselMetric', field_of_view=20)
    assert config.val_evaluator.to_dict() == config.test_evaluator.to_dict() == metric
    drop = 0.18 if 'drive' in path.stem else 0.13 if '150e' in path.stem else 0
    assert config.model.backbone.drop_prob == drop
    data_set = next(name for name in ('drive', 'chase-db1', 'stare') if name in path.stem)
    expected = dict(drive='DRIVEDataset', stare='STAREDataset').get(data_set, 'ChaseDB1Dataset')
    assert config.train_dataloader.dataset.dataset.type == config.val_dataloader.dataset.type == expected


def test_the_metafile_lists_the_configs():
    metafile = yaml.safe_load((FOLDER / 'metafile.yml').read_text())
    assert sorted(model['Config'] for model in metafile['Models']) == [f'configs/sa_unet/{p.name}' for p in CONFIGS]
