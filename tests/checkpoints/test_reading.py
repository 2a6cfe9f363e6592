import collections
import pickle
import random
import struct
import sys
import zipfile

import numpy as np
import pytest
import torch
from support.converter import read_any_weights as read_weights

from mmdet_sag.errors import InputError


class Hostile:
    """Writes a file when it is unpickled."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return open, (str(self.canary), 'w')


class Python2Pickler(pickle._Pickler):
    """Writes texts and bytes alike as the byte strings of Python 2, and NumPy's modules by their old names."""

    dispatch = dict(pickle._Pickler.dispatch)

    def save_string(self, value):
        data = value if isinstance(value, bytes) else value.encode('latin1')
        self.write(pickle.BINSTRING + struct.pack('<i', len(data)) + data)
        self.memoize(value)

    def save_array(self, value):
        reconstruct, args, state = value.__reduce__()
        self.write(b'cnumpy.core.multiarray\n_reconstruct\n')
        self.save(args)
        self.write(pickle.REDUCE)
        self.save(state)
        self.write(pickle.BUILD)

    dispatch[str] = save_string
    dispatch[bytes] = save_string
    dispatch[np.ndarray] = save_array


def weights():
    rng = np.random.default_rng(0)
    return {'a/conv.weight': rng.standard_normal((3, 2, 3, 3)).astype(np.float32), 'b': np.arange(4.0)}


def assert_same(read):
    assert list(read) == list(weights())
    for key, value in weights().items():
        np.testing.assert_array_equal(np.asarray(read[key]), value)


def refusal(path):
    with pytest.raises(InputError) as error:
        read_weights(path)
    message = str(error.value)
    assert message.startswith(f'{path}: ')
    assert len(message.splitlines()) == 1
    return message


@pytest.mark.parametrize('new_format', [True, False], ids=['zip', 'legacy'])
def test_pytorch_files_of_both_formats_are_read(new_format, tmp_path):
    tensors = collections.OrderedDict((key, torch.from_numpy(value)) for key, value in weights().items())
    torch.save({'model': tensors, 'iteration': 3}, tmp_path / 'file', _use_new_zipfile_serialization=new_format)
    read = read_weights(tmp_path / 'file')
    assert read['iteration'] == 3
    assert_same(read['model'])


@pytest.mark.parametrize('protocol', range(6))
def test_pickles_of_arrays_are_read(protocol, tmp_path):
    content = {'model': collections.OrderedDict(weights()), '__author__': 'someone'}
    (tmp_path / 'file.pkl').write_bytes(pickle.dumps(content, protocol=protocol))
    assert_same(read_weights(tmp_path / 'file.pkl')['model'])


@pytest.mark.parametrize('module', ['numpy.core', 'numpy._core'])
def test_pickles_of_older_and_newer_numpy_are_read(module, tmp_path):
    data = pickle.dumps(weights(), protocol=0)
    data = data.replace(b'cnumpy._core.', b'cnumpy.core.').replace(b'cnumpy.core.', f'c{module}.'.encode())
    (tmp_path / 'file.pkl').write_bytes(data)
    assert_same(read_weights(tmp_path / 'file.pkl'))


def test_pickles_of_python_2_are_read(tmp_path):
    with (tmp_path / 'file.pkl').open('wb') as file:
        Python2Pickler(file, protocol=2).dump(weights())
    assert_same(read_weights(tmp_path / 'file.pkl'))


def test_safetensors_files_are_read(tmp_path):
    safetensors = pytest.importorskip('safetensors.numpy')
    safetensors.save_file(weights(), tmp_path / 'file.safetensors')
    read = read_weights(tmp_path / 'file.safetensors')
    assert_same({key: read[key] for key in weights()})


def test_a_safetensors_file_asks_for_its_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'safetensors.torch', None)
    header = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    (tmp_path / 'file').write_bytes(struct.pack('<Q', len(header)) + header + bytes(4))
    assert 'pip install safetensors' in refusal(tmp_path / 'file')


@pytest.mark.parametrize('protocol', [0, 2, 5])
def test_a_hostile_pickle_is_refused_and_not_run(protocol, tmp_path):
    content = {'model': {**weights(), 'c': Hostile(tmp_path / 'canary')}}
    (tmp_path / 'file.pkl').write_bytes(pickle.dumps(content, protocol=protocol))
    assert '.open' in refusal(tmp_path / 'file.pkl')
    assert not (tmp_path / 'canary').exists()


@pytest.mark.parametrize('new_format', [True, False], ids=['zip', 'legacy'])
def test_a_hostile_pytorch_file_is_refused_and_not_run(new_format, tmp_path):
    content = {'model': {'a': torch.zeros(2)}, 'hook': Hostile(tmp_path / 'canary')}
    torch.save(content, tmp_path / 'file.pth', _use_new_zipfile_serialization=new_format)
    assert '.open' in refusal(tmp_path / 'file.pth')
    assert not (tmp_path / 'canary').exists()


@pytest.mark.parametrize(
    'data',
    [
        # codecs can unpack bombs, and other than latin1 is in no array
        b'c_codecs\nencode\n(Vabc\nVzlib\ntR.',
        # an array of objects holds anything
        b'cnumpy\ndtype\n(VO8\nI00\nI01\ntR.',
        b'cnumpy\ndtype\n((lp0\nVa\naI00\nI01\ntR.',
        b'cnumpy.lib.npyio\nload\n(Vfile\ntR.',
        b'c__builtin__\neval\n(V1\ntR.',
        b'ctorch._utils\n_rebuild_tensor_v2\n.',
    ],
)
def test_a_pickle_of_other_than_arrays_is_refused(data, tmp_path):
    (tmp_path / 'file.pkl').write_bytes(data)
    assert 'refused' in refusal(tmp_path / 'file.pkl')


def test_numpys_own_types_stay_as_they_are(tmp_path):
    # The type of the array turns its byte order.
    (tmp_path / 'file.pkl').write_bytes(pickle.dumps(np.ones(2, '>f4'), protocol=2))
    assert read_weights(tmp_path / 'file.pkl').tolist() == [1, 1]
    assert np.dtype('f4').isnative


@pytest.mark.parametrize('kind', ['zip', 'legacy', 'pickle'])
@pytest.mark.parametrize('share', [0.01, 0.5, 0.99])
def test_a_truncated_checkpoint_is_refused_with_one_line(kind, share, tmp_path):
    path = tmp_path / 'file'
    if kind == 'pickle':
        path.write_bytes(pickle.dumps(weights(), protocol=2))
    else:
        torch.save({'a': torch.rand(1000)}, path, _use_new_zipfile_serialization=kind == 'zip')
    data = path.read_bytes()
    path.write_bytes(data[: max(1, int(share * len(data)))])
    assert 'get the file again' in refusal(path)


def test_no_file_with_a_flipped_bit_or_a_block_of_zeros_is_trusted(tmp_path):
    torch.manual_seed(0)
    content = {f'layer{i}.weight': torch.rand(2000) for i in range(20)}
    torch.save(content, tmp_path / 'whole')
    whole = (tmp_path / 'whole').read_bytes()
    with zipfile.ZipFile(tmp_path / 'whole') as archive:
        between = len(whole) - sum(part.file_size for part in archive.infolist())
    generator = random.Random(0)
    refused = 0
    for number in range(1000):
        damaged = bytearray(whole)
        while damaged == whole:
            place = generator.randrange(len(whole))
            if number % 2:
                damaged[place] ^= 1 << generator.randrange(8)
            else:
                block = slice(place, place + generator.choice([1, 16, 512, 4096]))
                damaged[block] = bytes(len(damaged[block]))
        # The name is new: checksums are read once for each file.
        path = tmp_path / str(number)
        path.write_bytes(damaged)
        try:
            read = read_weights(path)
        except InputError:
            refused += 1
        else:
            # The damage lies between the parts, such as in the bytes that fill up to a multiple of 64.
            assert all(torch.equal(read[key], value) for key, value in content.items())
        path.unlink()
    assert 1000 - refused < 1000 * between / len(whole)


def test_a_part_that_pytorch_would_take_for_a_folder_is_refused(tmp_path):
    torch.save(torch.ones(3), tmp_path / 'file')
    data = bytearray((tmp_path / 'file').read_bytes())
    # External attributes of the entry in the archive's list.
    data[data.index(b'PK\x01\x02', data.index(b'PK\x01\x02') + 4) + 38] |= 0x10
    (tmp_path / 'file').write_bytes(data)
    assert 'marked as folder' in refusal(tmp_path / 'file')


@pytest.mark.skipif(not hasattr(torch.serialization, 'set_crc32_options'), reason='this PyTorch always writes them')
def test_a_file_without_checksums_is_read(tmp_path):
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({'a': torch.ones(3)}, tmp_path / 'file')
    finally:
        torch.serialization.set_crc32_options(before)
    assert read_weights(tmp_path / 'file')['a'].tolist() == [1, 1, 1]


def test_files_of_other_kinds_are_refused(tmp_path):
    np.savez(tmp_path / 'arrays.npz', a=np.zeros(2))
    np.save(tmp_path / 'array.npy', np.zeros(2))
    (tmp_path / 'page.html').write_text('<!DOCTYPE html><html><body>Sign in</body></html>')
    (tmp_path / 'noise').write_bytes(np.random.default_rng(0).bytes(5000))
    for path in sorted(tmp_path.iterdir()):
        assert 'get the file again' in refusal(path)


def test_an_empty_or_missing_file_and_a_folder_are_refused(tmp_path):
    (tmp_path / 'empty').touch()
    assert 'is empty' in refusal(tmp_path / 'empty')
    assert 'cannot be read' in refusal(tmp_path / 'missing')
    assert 'cannot be read' in refusal(tmp_path)
