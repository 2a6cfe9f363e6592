import io
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from support.converter import read_any_weights as read_weights

from mmdet_sag.engine.checkpoint_files import LOADS_SAFELY
from mmdet_sag.errors import InputError

NDARRAY, DTYPE = b'cnumpy\nndarray\n', b'cnumpy\ndtype\n'
EMPTY = b'cnumpy.core.multiarray\n_reconstruct\n(' + NDARRAY + b'(K\x00tc_codecs\nencode\n(X\x01\x00\x00\x00b'
EMPTY += b'X\x06\x00\x00\x00latin1tRtR'
HISTORY = b'cmmengine.logging.history_buffer\nHistoryBuffer\n'


def text(value: str) -> bytes:
    return b'X' + len(value).to_bytes(4, 'little') + value.encode()


def dtype(code: str, state: bytes = b'') -> bytes:
    return DTYPE + b'(' + text(code) + b'\x89\x88tR' + state


def dtype_state(fields: bytes = b'NN', size: bytes = b'J\xff\xff\xff\xff', flags: int = 0) -> bytes:
    return b'(K\x03' + text('<') + b'N' + fields + size + b'J\xff\xff\xff\xff' + bytes([75, flags]) + b'tb'


def array_state(shape: bytes, kind: bytes, data: bytes) -> bytes:
    return b'(K\x01' + shape + kind + b'\x89' + data + b'tb'


TWO_BYTES = b'c_codecs\nencode\n(' + text('ab') + text('latin1') + b'tR'
F2 = dtype('f2', dtype_state())
CRAFTED = {
    'an array on a buffer': NDARRAY + b'(K\x01\x85' + text('O') + TWO_BYTES + b'tR',
    'a new array': NDARRAY + b'(K\x01\x85' + text('O') + TWO_BYTES + b't\x81',
    'objects': EMPTY + array_state(b'K\x01\x85', dtype('O'), b']K\x01a'),
    'an array of an array type': EMPTY.replace(b'(' + NDARRAY, b'(' + DTYPE),
    'flags of objects': EMPTY + array_state(b'K\x01\x85', dtype('f8', dtype_state(flags=63)), b']K\x01a'),
    'fields': dtype('f8', dtype_state(b'(' + text('a') + b't}' + text('a') + dtype('f2') + b'K\x00\x86s')),
    'an item size': dtype('f8', dtype_state(size=b'K\x40')),
    'too few bytes': EMPTY + array_state(b'K\x02\x85', F2, TWO_BYTES),
    'a shape that overflows': EMPTY
    + array_state(b'\x8a\x09' + (2**64 + 1).to_bytes(9, 'little') + b'\x85', F2, TWO_BYTES),
    'a negative shape': EMPTY + array_state(b'J\xff\xff\xff\xffJ\xff\xff\xff\xff\x86', F2, TWO_BYTES),
    'a state twice': EMPTY + 2 * array_state(b'K\x01\x85', F2, TWO_BYTES),
    'a number of objects': b'cnumpy.core.multiarray\nscalar\n(' + dtype('O') + TWO_BYTES + b'tR',
    'a number that is too short': b'cnumpy.core.multiarray\nscalar\n(' + dtype('f8') + TWO_BYTES + b'tR',
    'a log made of anything': HISTORY + b'(]]tR',
    'a log that holds anything': HISTORY + b')\x81}(' + text('max_length') + b'K\x01' + text('_log_history') + b']ub',
    'an array through a tensor': b'ctorch._tensor\n_rebuild_from_type_v2\n(' + NDARRAY + NDARRAY + b'K\x01\x85)tR',
}


def write(path: Path, pickled: bytes, kind: str) -> Path:
    """Write a pickle as a pickle, or as the content of a file of PyTorch."""
    if kind == 'pickle':
        path.write_bytes(b'\x80\x02' + pickled + b'.')
        return path
    file = io.BytesIO()
    torch.save(0, file)
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(path, 'w') as new:
        for name in old.namelist():
            new.writestr(name, b'\x80\x02' + pickled + b'.' if name.endswith('data.pkl') else old.read(name))
    return path


@pytest.mark.parametrize('kind', ['pickle', 'torch'])
@pytest.mark.parametrize('what', CRAFTED)
def test_a_crafted_file_is_refused(what, kind, tmp_path):
    with pytest.raises(InputError) as error:
        read_weights(write(tmp_path / 'file', CRAFTED[what], kind))
    assert 'refused' in str(error.value)


@pytest.mark.skipif(not LOADS_SAFELY, reason='this PyTorch does not load safely unless told to')
@pytest.mark.parametrize('what', CRAFTED)
def test_pytorchs_own_loading_refuses_it_too(what, tmp_path):
    with pytest.raises(pickle.UnpicklingError):
        torch.load(write(tmp_path / 'file', CRAFTED[what], 'torch'))


@pytest.mark.parametrize('kind', ['pickle', 'torch'])
def test_the_honest_array_beside_them_is_read(kind, tmp_path):
    honest = EMPTY + array_state(b'K\x01\x85', F2, TWO_BYTES)
    assert read_weights(write(tmp_path / 'file', honest, kind)).tolist() == np.frombuffer(b'ab', '<f2').tolist()


def test_a_file_changes_no_statistics_of_other_logs(tmp_path):
    log = HistoryBuffer()
    log.update(1)
    log._statistics_methods = {**HistoryBuffer._statistics_methods, 'mean': HistoryBuffer.max}
    torch.save(log, tmp_path / 'file')
    assert type(read_weights(tmp_path / 'file')) is HistoryBuffer
    assert HistoryBuffer._statistics_methods['mean'] is HistoryBuffer.mean


def test_what_was_read_can_be_written_again(tmp_path):
    torch.save(dict(flags=np.array([1.5])), tmp_path / 'file')
    again = pickle.loads(pickle.dumps(read_weights(tmp_path / 'file')))
    assert type(again['flags']) is np.ndarray
    assert again['flags'].tolist() == [1.5]


def test_mutated_and_crafted_files_are_loaded_or_refused():
    # All 5,000 crafted ones take some minutes.
    crafted = int(os.environ.get('MMDET_SAG_CRAFTED', '300'))
    path = Path(__file__).parents[1] / 'support/fuzzed_files.py'
    root = Path(__file__).parents[2]
    environment = {
        **os.environ,
        'OMP_NUM_THREADS': '1',
        'PYTHONPATH': os.pathsep.join([str(root), str(root / 'tests')]),
    }
    # A process of its own: a crash is a status, and not the end of the tests.
    process = subprocess.run(
        [sys.executable, '-X', 'faulthandler', path, '1500', str(crafted)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    loaded, refused, crafted_loaded, crafted_refused = map(int, process.stdout.split())
    assert loaded > 40
    assert refused > 800
    assert (crafted_loaded, crafted_refused) == (0, crafted)
