"""Every command line answers bad input with one line and one exit status."""

import argparse
import ast
import runpy
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from mmdet.registry import HOOKS

from mmdet_sag.command_line import ExitStatus, HelpFormatter, run_command
from mmdet_sag.errors import InputError

ROOT = Path(__file__).resolve().parents[1]


def calls(path, name):
    """Calls of a function or method in a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(name):
            yield node


def test_every_command_shows_its_defaults_and_calls_its_output_out():
    # The service of exported models stands alone.
    paths = [path for folder in ('tools', 'demo') for path in (ROOT / folder).rglob('*.py') if path.name != 'serve.py']
    parsers = [call for path in paths for call in calls(path, 'ArgumentParser')]
    assert len(parsers) > 10
    assert all('formatter_class=HelpFormatter' in ast.unparse(parser) for parser in parsers)
    options = [ast.unparse(call.args[0]).strip("'") for path in paths for call in calls(path, '.add_argument')]
    assert '--out' in options and not {'--out-dir', '--output', '--out-file'} & set(options)


def test_defaults_are_said_once_and_none_and_false_are_not_said(capsys):
    parser = argparse.ArgumentParser(formatter_class=HelpFormatter)
    parser.add_argument('--seed', type=int, default=0, help='seed')
    parser.add_argument('--size', type=int, help='size; default: by data')
    parser.add_argument('--device', help='device')
    parser.add_argument('--quick', action='store_true', help='less')
    parser.print_help()
    lines = [line[19:].strip() for line in capsys.readouterr().out.splitlines()[-4:]]
    assert lines == ['seed (default: 0)', 'size; default: by data', 'device', 'less']


def test_commands_are_silent_about_the_package_that_mmengine_reads_versions_with(recwarn):
    def main():
        warnings.warn('pkg_resources is deprecated as an API.', UserWarning, stacklevel=1)
        warnings.warn('something else', UserWarning, stacklevel=1)

    with pytest.raises(SystemExit):
        run_command(main)
    assert [str(warning.message) for warning in recwarn] == ['something else']


def refuse():
    raise InputError('no.txt does not exist: check the path')


@pytest.mark.parametrize(
    ('main', 'status'), [(lambda: None, 0), (lambda: ExitStatus.PROBLEMS_FOUND, 1), (refuse, 2)], ids=[0, 1, 2]
)
def test_the_exit_status_says_how_it_ended(main, status):
    with pytest.raises(SystemExit) as stop:
        run_command(main)
    assert stop.value.code == status


def test_a_defect_keeps_its_stack_trace():
    with pytest.raises(ZeroDivisionError):
        run_command(lambda: 1 // 0)


@pytest.mark.parametrize('unbuffered', ['', '1'])
def test_a_reader_that_leaves_early_ends_a_command_without_a_word(monkeypatch, unbuffered):
    monkeypatch.setenv('PYTHONUNBUFFERED', unbuffered)
    script = """
from mmdet_sag.command_line import run_command
run_command(lambda: [print('line') for _ in range(100_000)] and None)
"""
    with subprocess.Popen([sys.executable, '-c', script], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as command:
        command.stdout.readline()
        command.stdout.close()
        assert command.stderr.read() == b''
    assert command.returncode == 128 + signal.SIGPIPE


@pytest.mark.parametrize(
    ('part', 'words'),
    [
        (dict(type='EarlyStoppingHook', patiense=3), "EarlyStoppingHook has no option 'patiense'; its options are "),
        # Those of MMEngine's hook, to which its subclass hands them on.
        (dict(type='EarlyStoppingHook', patiense=3), ' patience, '),
        (dict(type='EarlyStoppingHook'), "missing 1 required positional argument: 'monitor'"),
        (
            dict(type='EarlyStopping', monitor='loss'),
            "'EarlyStopping' is in no registry of a 'hook': check its spelling",
        ),
    ],
)
def test_a_part_of_a_config_that_cannot_be_built_is_one_line(part, words, capsys):
    with pytest.raises(SystemExit) as stop:
        run_command(lambda: HOOKS.build(part))
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith('error: in the config, ') and words in line


class Defective:
    def __init__(self, size: int) -> None:
        dict().update(size, strict=True).sort(size=size)


def test_a_defect_in_such_a_part_keeps_its_stack_trace():
    with pytest.raises(TypeError):
        run_command(lambda: HOOKS.build(dict(type=Defective, size=1)))


@pytest.mark.parametrize(('rank', 'lines'), [('0', 1), ('1', 0)])
def test_one_process_of_a_machine_prints_the_line(monkeypatch, capsys, rank, lines):
    monkeypatch.setenv('LOCAL_RANK', rank)
    with pytest.raises(SystemExit) as stop:
        run_command(refuse)
    assert stop.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == lines


@pytest.mark.parametrize(
    ('command', 'what'),
    [
        (['tools/train.py', 'no.py'], 'no.py'),
        (['tools/train.py', 'no.py', '--launcher', 'slurm'], 'needs SLURM_PROCID, SLURM_NTASKS: start it with srun'),
        (['tools/test.py', 'no.py', 'no.pth'], 'no.py'),
        (['tools/misc/check_dataset.py', 'no.py'], 'no.py'),
        (['tools/misc/check_dataset.py', __file__, '--cfg-options', 'no_value'], 'no_value'),
        (['tools/dataset_converters/make_demo_dataset.py', '--num-train', '0'], 'number of training images'),
        (['tools/model_converters/centermask2_to_mmdet.py', 'no.pth', 'out.pth'], 'no.pth'),
        (['demo/image_demo.py', 'no.jpg', 'no.py', 'no.pth'], 'no.jpg'),
        (['demo/run_demo.py', '--data-root', 'my data', '--quick', '--work-dir', 'a,b'], 'holds a comma'),
    ],
    ids=lambda value: Path(value[0]).stem if isinstance(value, list) else '',
)
def test_every_tool_and_demo_exits_with_2_on_bad_input(monkeypatch, capsys, tmp_path, command, what):
    monkeypatch.chdir(tmp_path)
    # As in the second task of a job, whose launcher is not in use.
    monkeypatch.setenv('SLURM_LOCALID', '1')
    monkeypatch.setenv('OMPI_COMM_WORLD_LOCAL_RANK', '1')
    tool, *arguments = command
    monkeypatch.setattr(sys, 'argv', [tool, *arguments])
    monkeypatch.syspath_prepend(str((ROOT / tool).parent))
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(ROOT / tool), run_name='__main__')
    assert stop.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert 'error: ' in last
    assert what in last
