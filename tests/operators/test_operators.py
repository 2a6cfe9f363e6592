import os
import subprocess
import sys
from pathlib import Path

import pytest

from mmdet_sag.errors import InputError
from mmdet_sag.operators import check_operators, operators_in_use

ROOT = Path(__file__).resolve().parents[2]


def test_operators_that_work_pass():
    check_operators()


@pytest.fixture
def no_operators(monkeypatch):
    monkeypatch.setitem(sys.modules, 'mmcv._ext', None)


def test_an_mmcv_whose_operators_do_not_load_is_refused_with_both_remedies(no_operators, monkeypatch):
    monkeypatch.delenv('MMDET_SAG_OPERATORS', raising=False)
    with pytest.raises(InputError, match='no compiled operators.*mmcv._ext.*pip install --no-build-isolation') as error:
        check_operators()
    assert '\n' not in str(error.value)
    assert 'MMDET_SAG_OPERATORS=torchvision' in str(error.value)


def test_where_mmcvs_own_are_asked_for_the_refusal_names_only_how_to_build_them(no_operators, monkeypatch):
    monkeypatch.setenv('MMDET_SAG_OPERATORS', 'mmcv')
    with pytest.raises(InputError, match=r'\): build them with `pip install'):
        check_operators()


def test_an_unknown_choice_is_refused(monkeypatch):
    monkeypatch.setenv('MMDET_SAG_OPERATORS', 'tv')
    with pytest.raises(InputError, match='^MMDET_SAG_OPERATORS=tv is not known: set it to auto, mmcv or torchvision$'):
        check_operators()


@pytest.fixture
def site(tmp_path):
    """A folder like site-packages, with what an install puts there to find the operators."""
    for name in ('mmdet_sag_operators.py', 'mmdet_sag_operators.pth'):
        (tmp_path / name).write_text((ROOT / name).read_text())
    (tmp_path / 'mmdet_sag').symlink_to(ROOT / 'mmdet_sag')
    return tmp_path


def run(script: str, site: Path, **variables: str) -> subprocess.CompletedProcess:
    """Run a script in a Python whose start went through ``site``."""
    # At the very start, before anything else was imported.
    (site / 'sitecustomize.py').write_text(f'import site\nsite.addsitedir({str(site)!r})\n')
    environment = {**os.environ, 'PYTHONPATH': str(site), 'MMDET_SAG_OPERATORS': '', **variables}
    return subprocess.run([sys.executable, '-c', script], env=environment, cwd=site, capture_output=True, text=True)


WHICH = 'import mmcv._ext; print(mmcv._ext.__file__)'
HIDE = """
import sys
from importlib.machinery import PathFinder

class Hidden(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name == 'mmcv._ext' else PathFinder.find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Hidden
"""


def test_a_users_script_gets_torchvisions_operators_where_mmcv_has_none(site):
    script = f'{HIDE}\nfrom mmdet.apis import DetInferencer\n{WHICH}\nassert "mmdet_sag" not in sys.modules'
    process = run(script, site)
    assert process.stdout == f'{site / "mmdet_sag/operators/torchvision_ext.py"}\n', process.stderr


def test_mmcvs_own_operators_are_used_where_there_are_any_unless_torchvisions_are_asked_for(site):
    script = f'import sys\n{WHICH}'
    by_hand = run(script, site, MMDET_SAG_OPERATORS='torchvision')
    assert by_hand.stdout == f'{site / "mmdet_sag/operators/torchvision_ext.py"}\n', by_hand.stderr
    own = run(script, site, MMDET_SAG_OPERATORS='mmcv')
    if own.returncode == 0:
        assert Path(own.stdout.strip()).suffix in ('.so', '.pyd')
        assert run(script, site).stdout == own.stdout
    else:
        assert own.stderr.endswith("ModuleNotFoundError: No module named 'mmcv._ext'\n")


def test_a_spawned_process_finds_the_operators_too(site):
    (site / 'program.py').write_text(
        'import multiprocessing\n'
        'def work():\n'
        '    import mmcv.ops\n'
        '    import mmcv._ext\n'
        '    print(mmcv._ext.__file__, flush=True)\n'
        "if __name__ == '__main__':\n"
        "    process = multiprocessing.get_context('spawn').Process(target=work)\n"
        '    process.start()\n'
        '    process.join()\n'
    )
    script = "import runpy; runpy.run_path('program.py', run_name='__main__')"
    process = run(script, site, MMDET_SAG_OPERATORS='torchvision')
    assert process.stdout == f'{site / "mmdet_sag/operators/torchvision_ext.py"}\n', process.stderr


def test_the_start_of_python_imports_nothing_more_and_passes_without_the_module(site):
    # -S and no PYTHONPATH: the environment of the tests may have the package installed too.
    script = f'import site, sys; site.addsitedir({str(site)!r}); print(*sorted(sys.modules))'
    environment = {key: value for key, value in os.environ.items() if key != 'PYTHONPATH'}

    def start() -> subprocess.CompletedProcess:
        command = [sys.executable, '-S', '-c', script]
        return subprocess.run(command, env=environment, cwd=site.parent, capture_output=True, text=True)

    modules = start().stdout.split()
    assert 'mmdet_sag_operators' in modules
    (site / 'mmdet_sag_operators.py').unlink()
    without = start()
    assert without.stderr == ''
    assert set(modules) - set(without.stdout.split()) == {'mmdet_sag_operators'}


def test_a_torchvision_of_another_torch_is_named_in_one_line(site):
    # What importing such a pair raises depends on the versions.
    (site / 'torchvision').mkdir()
    (site / 'torchvision/__init__.py').write_text(
        "raise RuntimeError('operator torchvision::nms does not exist\\nmore')"
    )
    script = "import torch; torch.__version__ = '2.13.0+cpu'; import mmdet_sag; import mmcv.ops"
    process = run(script, site, MMDET_SAG_OPERATORS='torchvision')
    (line,) = process.stderr.splitlines()
    assert line.startswith("error: torchvision's operators")
    assert (
        '(operator torchvision::nms does not exist): install the torchvision that was built for torch 2.13.0+' in line
    )
    command = (
        "pip install --force-reinstall --no-deps 'torchvision==0.28.*' --index-url https://download.pytorch.org/whl"
    )
    assert f'({command}/cpu), or ' in line


def test_the_operators_in_use_are_named():
    assert operators_in_use().startswith(('mmcv 2.', 'torchvision 0.'))
