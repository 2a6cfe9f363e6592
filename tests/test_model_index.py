from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
METAFILES = yaml.safe_load((ROOT / 'model-index.yml').read_text())['Import']
MODELS = [model for path in METAFILES for model in yaml.safe_load((ROOT / path).read_text())['Models']]


def test_every_config_of_the_zoo_is_in_the_index():
    configs = {path.relative_to(ROOT).as_posix() for path in ROOT.glob('configs/*/*_fpn_*x_coco*.py')}
    assert configs == {model['Config'] for model in MODELS}


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
    if 'Results' in model:
        assert 'published by the authors' in source
        assert 'not retrained here' in source
        metrics = {key: value for result in model['Results'] for key, value in result['Metrics'].items()}
        assert metrics['box AP'] > metrics['mask AP'] > 0
    else:
        assert 'none known' in source


@pytest.mark.parametrize('model', MODELS, ids=lambda model: model['Name'])
def test_the_readme_and_the_page_of_checkpoints_show_the_same_results(model):
    config = Path(model['Config'])
    rows = {
        page: next(line for line in page.read_text().splitlines() if line.startswith('|') and config.name in line)
        for page in ((ROOT / config).with_name('README.md'), ROOT / 'docs/checkpoints.md')
    }
    for result in model.get('Results', []):
        for value in result['Metrics'].values():
            for page, row in rows.items():
                assert f'| {value} |' in row, page
