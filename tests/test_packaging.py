"""The wheel holds what MIM looks for, and the set-up script says what is missing before it starts."""

import json
import os
import re
import shutil
import stat
import subprocess
import sys
import zipfile
from email import message_from_string
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from mmengine.config import Config

from mmdet_sag.__main__ import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
SET_UP = ROOT / 'tools/setup_env.sh'
EXTRAS = dict(cpu='cpu.txt', deploy='deploy.txt', dev='tests.txt', segmentation='segmentation.txt', timm='timm.txt')
EXTRAS |= dict(video='video.txt', web='web.txt')
ONLY_IN_A_CLONE = {'run.sh', 'run_demo.py', 'result_pictures.py', 'serving', 'setup_env.sh'}
SOURCES = ('configs', 'demo', 'mmdet_sag', 'requirements', 'tools')
SOURCES += ('mmdet_sag_operators.py', 'mmdet_sag_operators.pth')
SOURCES += ('LICENSE', 'MANIFEST.in', 'README.md', 'model-index.yml', 'pyproject.toml', 'requirements.txt', 'setup.py')


def copy_sources(target: Path) -> Path:
    """A build writes into the tree that it builds from."""
    target.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns('__pycache__', '.mim'))
        else:
            shutil.copy2(ROOT / name, target / name)
    return target


def pip(*args: object) -> None:
    command = [sys.executable, '-m', 'pip', '--quiet', '--disable-pip-version-check', *map(str, args)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def build_wheel(source: Path, target: Path) -> Path:
    pip('wheel', '--no-build-isolation', '--no-deps', '--no-index', '--wheel-dir', target, source)
    (wheel,) = target.glob('mmdet_sag-*.whl')
    return wheel


def mim_files() -> dict:
    """Every file that belongs into ``.mim``, by its place there."""
    files = [ROOT / 'model-index.yml']
    files += [path for name in ('configs', 'demo', 'tools') for path in (ROOT / name).rglob('*') if path.is_file()]
    return {
        str(path.relative_to(ROOT)): path
        for path in files
        if not {'__pycache__', *ONLY_IN_A_CLONE}.intersection(path.relative_to(ROOT).parts)
    }


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp('wheel')
    # As for PyPI.
    os.environ['REPOSITORY_URL'] = 'https://example.org/sag'
    source = copy_sources(folder / 'source tree')
    # Of an earlier build: the module is gone from the sources since.
    left_over = source / 'build/lib/mmdet_sag/removed.py'
    left_over.parent.mkdir(parents=True)
    left_over.touch()
    try:
        return build_wheel(source, folder)
    finally:
        del os.environ['REPOSITORY_URL']


@pytest.fixture(scope='module')
def installed(wheel, tmp_path_factory):
    target = tmp_path_factory.mktemp('site')
    pip('install', '--no-deps', '--no-index', '--target', target, wheel)
    return target


@pytest.fixture(scope='module')
def editable(tmp_path_factory):
    folder = tmp_path_factory.mktemp('editable')
    source = copy_sources(folder / 'source tree')
    build = 'import sys; from setuptools import build_meta; build_meta.build_editable(sys.argv[1])'
    subprocess.run([sys.executable, '-c', build, str(folder)], cwd=source, check=True, capture_output=True)
    (path,) = folder.glob('*.whl')
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder / 'site')
    return folder / 'site', source


def test_the_wheel_holds_every_config_demo_and_tool_unchanged(wheel):
    with zipfile.ZipFile(wheel) as archive:
        prefix = 'mmdet_sag/.mim/'
        packed = {name[len(prefix) :]: archive.read(name) for name in archive.namelist() if name.startswith(prefix)}
    assert packed == {name: path.read_bytes() for name, path in mim_files().items()}


def test_the_wheel_holds_every_module_and_none_that_was_removed_since_the_last_build(wheel):
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / 'mmdet_sag').rglob('*.py') if '.mim' not in path.parts}
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.endswith('.py') and '/.mim/' not in name}
    assert packed == modules | {'mmdet_sag_operators.py'}


def test_links_of_the_readme_lead_to_the_repository_of_the_build(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith('.dist-info/METADATA'))
        text = message_from_string(archive.read(name).decode()).get_payload()
    links = set(re.findall(r'\]\(([^)#]*)', text))
    assert 'https://example.org/sag/raw/main/docs/images/demo_results.png' in links
    assert 'https://example.org/sag/blob/main/docs/install.md' in links
    assert [link for link in links if link and not link.startswith('https://')] == []


@pytest.mark.parametrize('kind', ['installed', 'editable'])
def test_an_install_puts_the_line_into_site_packages_that_finds_the_operators(kind, request):
    site = request.getfixturevalue(kind)
    pth = (site[0] if kind == 'editable' else site) / 'mmdet_sag_operators.pth'
    assert pth.read_bytes() == (ROOT / 'mmdet_sag_operators.pth').read_bytes()


def test_the_wheel_asks_for_the_ranges_of_requirements_txt(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith('.dist-info/METADATA'))
        metadata = message_from_string(archive.read(name).decode())
    lines = (ROOT / 'requirements.txt').read_text().splitlines()
    ranges = {frozenset(line.replace('<', ',<').replace('>', ',>').split(',')) for line in lines if line[:1].isalpha()}
    lines = [line for line in metadata.get_all('Requires-Dist') if 'extra' not in line]
    asked = {frozenset(line.replace('<', ',<').replace('>', ',>').split(',')) for line in lines}
    assert asked == ranges
    assert metadata['License'] == 'Apache-2.0'


def test_the_wheel_has_a_command_whose_tools_are_in_it(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (entry_points,) = (name for name in archive.namelist() if name.endswith('.dist-info/entry_points.txt'))
        assert 'mmdet-sag = mmdet_sag.__main__:main' in archive.read(entry_points).decode()
        assert {f'mmdet_sag/.mim/{tool}' for tool, _ in COMMANDS.values()} <= set(archive.namelist())


@pytest.mark.parametrize('extra, file', EXTRAS.items())
def test_the_wheel_has_an_extra_for_each_file_of_requirements(extra, file, wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith('.dist-info/METADATA'))
        metadata = message_from_string(archive.read(name).decode())
    asked = [
        line.split(';')[0]
        for line in metadata.get_all('Requires-Dist')
        if f"extra == '{extra}'" in line.replace('"', "'")
    ]
    lines = (ROOT / 'requirements' / file).read_text().splitlines()
    assert sorted(asked) == sorted(line for line in lines if line[:1].isalpha())


def test_an_installed_wheel_registers_its_classes_and_runs_its_own_tool(installed, tmp_path):
    script = """
import sys
import mmdet_sag.__main__
from mmdet.registry import MODELS
print(mmdet_sag.__file__, MODELS.get('SAGMaskHead').__name__, flush=True)
sys.argv = ['mmdet-sag', 'train', '--help']
mmdet_sag.__main__.main()
"""
    environment = {**os.environ, 'PYTHONPATH': str(installed)}
    output = subprocess.run(
        [sys.executable, '-c', script], cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
    ).stdout
    assert output.startswith(f'{installed / "mmdet_sag/__init__.py"} SAGMaskHead\nusage: mmdet-sag train')
    assert '--resume' in output


def test_an_installed_wheel_makes_the_demo_data_set(installed, tmp_path):
    options = ['--out', 'shapes', '--num-train', '1', '--num-val', '1']
    command = [sys.executable, '-m', 'mmdet_sag', 'make-demo-data', *options]
    environment = {**os.environ, 'PYTHONPATH': str(installed)}
    output = subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True).stdout
    assert output == 'shapes: 1 training and 1 validation images made\n'
    assert (tmp_path / 'shapes/annotations/instances_val2017.json').is_file()


@pytest.mark.parametrize(
    'name', ['centermask/centermask_v39_fpn_ms-3x_coco.py', 'sag_mask/mask-rcnn_r50_fpn_sag_1x_coco.py']
)
def test_an_installed_config_reads_like_the_one_of_the_source_tree(name, installed):
    installed_config = Config.fromfile(installed / 'mmdet_sag/.mim/configs' / name)
    assert installed_config.to_dict() == Config.fromfile(ROOT / 'configs' / name).to_dict()


def test_an_edit_of_a_config_takes_effect_in_an_editable_install(editable):
    site, source = editable
    name = 'configs/centermask/centermask_v39_fpn_ms-3x_coco.py'
    forwarded = site / 'mmdet_sag/.mim' / name
    assert Config.fromfile(forwarded).to_dict() == Config.fromfile(source / name).to_dict()
    with (source / name).open('a') as file:
        file.write('\nan_edit = 1\n')
    assert Config.fromfile(forwarded).an_edit == 1


def test_a_tool_of_an_editable_install_is_that_of_the_source_tree(editable, tmp_path):
    site, source = editable
    source.joinpath('tools/train.py').write_text('import sys\nprint(__file__, __name__, sys.argv[1:], sys.path[0])\n')
    tool = site / 'mmdet_sag/.mim/tools/train.py'
    output = subprocess.run([sys.executable, str(tool), 'a'], capture_output=True, text=True, check=True).stdout
    assert output == f"{source / 'tools/train.py'} __main__ ['a'] {source / 'tools'}\n"


SCRIPTS = [
    '.ci/run',
    '.ci/walk_wheel',
    'demo/run.sh',
    'tests/run.sh',
    *sorted(f'tools/{path.name}' for path in ROOT.glob('tools/*.sh')),
]


@pytest.mark.parametrize('script', SCRIPTS)
def test_a_script_is_executable_and_bash_can_read_it(script):
    path = ROOT / script
    assert os.access(path, os.X_OK)
    subprocess.run(['bash', '-n', str(path)], check=True)


@pytest.mark.parametrize('script', ['demo/run.sh', 'tests/run.sh', 'tools/setup_env.sh'])
def test_a_script_that_sets_up_explains_itself_without_setting_up(script, tmp_path):
    environment = {**os.environ, 'MMDET_SAG_VENV': str(tmp_path / 'venv'), 'PYTHON': 'none'}
    said = subprocess.run([ROOT / script, '--help'], env=environment, capture_output=True, text=True, check=True)
    assert said.stdout.count('\n') >= 3 and '#' not in said.stdout and not said.stderr
    assert not (tmp_path / 'venv').exists()


def make_command(folder: Path, name: str, script: str) -> Path:
    path = folder / name
    path.write_text(f'#!/bin/sh\n{script}\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def refusal(venv: Path, **variables: object) -> str:
    """The one line with which the set-up stops, before it makes anything."""
    names = ('MMDET_SAG_OPERATORS', 'TORCH_VERSION', 'TORCH_INDEX_URL', 'USE_ACTIVE_ENV')
    environment = {name: value for name, value in os.environ.items() if name not in names}
    environment |= {'PYTHON': sys.executable, 'MMDET_SAG_VENV': str(venv)}
    environment |= {name: str(value) for name, value in variables.items()}
    before = venv.exists() and sorted(venv.iterdir())
    process = subprocess.run([str(SET_UP)], env=environment, capture_output=True, text=True, timeout=60)
    assert process.returncode == 1
    assert process.stdout == ''
    assert (venv.exists() and sorted(venv.iterdir())) == before
    lines = process.stderr.splitlines()
    assert len(lines) == 1
    return lines[0]


def test_set_up_refuses_another_python(tmp_path):
    python = make_command(tmp_path, 'python3.8', 'if [ "$1" = --version ]; then echo Python 3.8.18; else exit 1; fi')
    line = refusal(tmp_path / 'venv', PYTHON=python)
    assert line == f'error: PYTHON={python} is Python 3.8.18, but Python 3.10 to 3.13 is needed: set PYTHON to one'


set_up_python = pytest.mark.skipif(
    not (3, 10) <= sys.version_info[:2] <= (3, 13), reason='the set-up makes environments of Python 3.10 to 3.13 only'
)


@set_up_python
def test_set_up_refuses_to_start_on_a_full_disk(tmp_path):
    make_command(tmp_path, 'df', 'printf "Filesystem 1024-blocks Used Available\\n/dev/x 9 9 1572864\\n"')
    index = 'https://example.org/cpu'
    line = refusal(tmp_path / 'venv', PATH=f'{tmp_path}:{os.environ["PATH"]}', TORCH_INDEX_URL=index)
    assert line == (
        f'error: 1 GB free in {tmp_path}, but 4 GB are needed: make room, or set MMDET_SAG_VENV to a folder elsewhere'
    )


@set_up_python
def test_set_up_leaves_a_folder_alone_that_is_no_virtual_environment(tmp_path):
    folder = tmp_path / 'pictures'
    folder.mkdir()
    (folder / 'holiday.jpg').touch()
    assert refusal(folder).startswith(f'error: {folder} exists and is no virtual environment')


def test_set_up_refuses_a_torch_that_it_does_not_know(tmp_path):
    line = refusal(tmp_path / 'venv', TORCH_VERSION='2.16.0')
    assert line == 'error: TORCH_VERSION=2.16.0 is not supported: name one from 2.1 to 2.15'


def test_set_up_compiles_no_mmcv(tmp_path):
    line = refusal(tmp_path / 'venv', MMDET_SAG_OPERATORS='mmcv')
    assert line.startswith('error: MMDET_SAG_OPERATORS=mmcv, but there is no mmcv with compiled operators')
    assert 'set USE_ACTIVE_ENV=1' in line


def test_set_up_refuses_an_unknown_choice_of_operators(tmp_path):
    line = refusal(tmp_path / 'venv', MMDET_SAG_OPERATORS='tv')
    assert line == 'error: MMDET_SAG_OPERATORS=tv is not known: set it to auto, mmcv or torchvision'


def test_set_up_does_not_take_an_active_environment_without_torch(tmp_path):
    bare = make_command(tmp_path, 'python', f'exec "{sys.executable}" -S "$@"')
    line = refusal(tmp_path / 'venv', USE_ACTIVE_ENV=1, PYTHON=bare)
    assert line.startswith(f'error: USE_ACTIVE_ENV=1, but {bare} has no torch')


def made_for_this_clone() -> bool:
    """Whether the set-up made this environment for this clone: it would install the clone into that of another one."""
    try:
        origin = distribution('mmdet_sag').read_text('direct_url.json') or '{}'
    except PackageNotFoundError:
        return False
    return Path(sys.prefix, '.mmdet_sag_setup').exists() and json.loads(origin).get('url') == SET_UP.parents[1].as_uri()


@pytest.mark.skipif(not made_for_this_clone(), reason='the tests do not run in an environment of the set-up')
def test_a_finished_environment_is_handed_out_without_any_work():
    process = subprocess.run(
        [str(SET_UP)], env={**os.environ, 'MMDET_SAG_VENV': sys.prefix}, capture_output=True, text=True, check=True
    )
    assert process.stderr == ''
    assert process.stdout == f'{sys.prefix}/bin/python\n'
