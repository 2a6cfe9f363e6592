import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
METAFILES = yaml.safe_load((ROOT / 'model-index.yml').read_text())['Import']
MODELS = [model for path in METAFILES for model in yaml.safe_load((ROOT / path).read_text())['Models']]


def test_every_config_of_the_zoo_is_in_the_index():
    patterns = 'configs/*/*_fpn_*x_coco*.py', 'configs/centermask_any/*_coco.py', 'configs/centermask_points/*_coco.py'
    configs = {path.relative_to(ROOT).as_posix() for pattern in patterns for path in ROOT.glob(pattern)}
    assert configs == {model['Config'] for model in MODELS if 'Weights' not in model}


@pytest.mark.parametrize('path', METAFILES)
def test_a_metafile_describes_its_collection(path):
    metafile = yaml.safe_load((ROOT / path).read_text())
    (collection,) = metafile['Collections']
    assert (ROOT / collection['README']).is_file()
    assert {model['In Collection'] for model in metafile['Models']} == {collection['Name']}


@pytest.mark.parametrize('model', MODELS, ids=lambda model: model['Name'])
def test_results_say_whose_they_are(model):
    assert model['Name'] == Path(model['Config']).stem
    source = model['Metadata']['Results Source']
    if 'Weights' in model:
        assert source == 'trained here' and (ROOT / model['Weights']).is_file()
    elif 'Results' in model:
        assert 'published by the authors' in source
        assert 'not retrained here' in source
        metrics = {key: value for result in model['Results'] for key, value in result['Metrics'].items()}
        assert metrics['box AP'] > metrics['mask AP'] > 0
        # `mim search --condition 'mask_ap>40'` compares all figures whose name contains this.
        assert all(isinstance(value, (int, float)) for key, value in metrics.items() if ' AP' in key)
    else:
        assert 'none known' in source


def test_the_tables_of_models_are_those_that_the_metafiles_make():
    process = subprocess.run([sys.executable, ROOT / '.ci/model_tables.py', '--check'], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr


def test_a_changed_metafile_fails_the_check_and_is_written_into_the_pages(tmp_path):
    for path in ('.ci/model_tables.py', 'model-index.yml', 'docs/checkpoints.md', *METAFILES):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, tmp_path / path)
    for path in METAFILES:
        shutil.copy((ROOT / path).with_name('README.md'), (tmp_path / path).with_name('README.md'))
    metafile = tmp_path / 'configs/centermask/metafile.yml'
    metafile.write_text(metafile.read_text().replace('box AP: 46.9', 'box AP: 47.1'))
    command = [sys.executable, tmp_path / '.ci/model_tables.py']
    check = subprocess.run([*command, '--check'], capture_output=True, text=True)
    assert check.returncode == 1
    assert 'differ from the metafiles in docs/checkpoints.md, configs/centermask/README.md' in check.stderr
    subprocess.run(command, check=True)
    subprocess.run([*command, '--check'], check=True)
    for page in (tmp_path / 'docs/checkpoints.md', metafile.with_name('README.md')):
        assert '| 47.1 | 42.0 |' in page.read_text()
