"""Run in a process of its own: reads mutated checkpoints, and prints how many were loaded and how many refused."""

import contextlib
import copy
import io
import pickle
import random
import sys
import tempfile
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

from mmdet_sag.checkpoints.allowed_calls import allow_mmengine_checkpoints
from mmdet_sag.errors import InputError
from support.converter import read_any_weights as read_weights

# What a mutation may put anywhere: names of functions, and the steps that call and change objects.
PIECES = [
    b'cnumpy\nndarray\n',
    b'cnumpy\ndtype\n',
    b'cnumpy._core.multiarray\n_reconstruct\n',
    b'cnumpy._core.multiarray\nscalar\n',
    b'cmmengine.logging.history_buffer\nHistoryBuffer\n',
    b'c__builtin__\ngetattr\n',
    b'ccollections\nOrderedDict\n',
    b'ctorch._utils\n_rebuild_tensor_v2\n',
    b'ctorch._tensor\n_rebuild_from_type_v2\n',
    b'cos\nsystem\n',
    b'cos\n_exit\n',
    b'c__builtin__\neval\n',
    b'X\x02\x00\x00\x00O8',
    b'X\x02\x00\x00\x00V8',
    b'X\x02\x00\x00\x00f8',
    b'J\xff\xff\xff\x7f',
    b'J\xff\xff\xff\xff',
    *(bytes([code]) for code in b'R\x81b()]}N\x85\x86\x87tsuae0.2\x88\x89'),
    *(bytes([number, index]) for number in b'hqK' for index in range(0, 60, 3)),
]


def content() -> dict:
    log = HistoryBuffer()
    log.update(1.5)
    return dict(
        meta=dict(iter=3, epoch=0, eta=np.float64(3), flags=np.array([True, False])),
        state_dict=OrderedDict(a=torch.arange(6.0).reshape(2, 3), b=torch.zeros(1, dtype=torch.long)),
        log=log,
    )


def arrays() -> dict:
    return {'model': OrderedDict(a=np.arange(6.0).reshape(2, 3), b=np.zeros(1, '>i4')), 'best': np.float32(0.5)}


def mutate(data: bytes, generator: random.Random) -> bytes:
    data = bytearray(data)
    for _ in range(generator.choice((1, 1, 2, 4))):
        place = generator.randrange(len(data) + 1)
        length = generator.choice((0, 1, 1, 2, 8))
        way = generator.randrange(4)
        if way == 0:
            data[place : place + 1] = bytes([generator.randrange(256)])
        elif way == 1:
            data[place : place + length] = generator.choice(PIECES)
        elif way == 2:
            start = generator.randrange(len(data) + 1)
            data[place : place + length] = data[start : start + generator.randrange(40)]
        else:
            del data[place : place + length]
    return bytes(data)


def mutate_inside(data: bytes, generator: random.Random) -> bytes:
    """Mutate the pickle in a file of PyTorch, and leave the archive whole."""
    with zipfile.ZipFile(io.BytesIO(data)) as old, io.BytesIO() as file:
        with zipfile.ZipFile(file, 'w') as new:
            for name in old.namelist():
                part = old.read(name)
                new.writestr(name, mutate(part, generator) if name.endswith('data.pkl') else part)
        return file.getvalue()


def use(value: object) -> None:
    """Touch every number, as a training would."""
    if isinstance(value, dict):
        for item in list(value.values()):
            use(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            use(item)
    elif isinstance(value, np.ndarray):
        assert value.dtype.kind in 'fiub', value.dtype
        value.astype(float).sum()
        copy.deepcopy(value)
    elif type(value) is torch.Tensor:
        # A tensor without data, such as one on another device, says so.
        with contextlib.suppress(RuntimeError, NotImplementedError):
            value.sum()
    elif type(value) is HistoryBuffer:
        for history in value.data:
            use(history)


class Watch:
    """Counts what a file made the process do; imports and the reading of the file itself are its own business."""

    events = ('os.system', 'os.exec', 'subprocess.Popen', 'exec', 'compile', 'os.remove', 'socket.connect')

    def __init__(self) -> None:
        self.on = False
        self.seen = []
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple) -> None:
        if self.on and event in self.events:
            self.seen.append((event, str(arguments)[:100]))


def main() -> None:
    count = int(sys.argv[1])
    allow_mmengine_checkpoints()
    warnings.simplefilter('ignore')
    files = []
    for new in (True, False):
        file = io.BytesIO()
        torch.save(content(), file, _use_new_zipfile_serialization=new)
        files.append((file.getvalue(), mutate))
    files.insert(0, (files[0][0], mutate_inside))
    files += [(pickle.dumps(arrays(), protocol=protocol), mutate) for protocol in (0, 2, 4, 5)]
    watch = Watch()
    counts = dict(loaded=0, refused=0)
    generator = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, 'file')
        for data, _ in files:
            path.write_bytes(data)
            use(read_weights(path))
        for i in range(count):
            data, mutation = files[i % len(files)]
            path.write_bytes(mutation(data, generator))
            watch.on = True
            try:
                # What a file makes Python say is of no interest.
                with contextlib.redirect_stderr(io.StringIO()):
                    loaded = read_weights(path)
                watch.on = False
                use(loaded)
                counts['loaded'] += 1
            except InputError:
                counts['refused'] += 1
            finally:
                watch.on = False
    assert not watch.seen, watch.seen
    print(counts['loaded'], counts['refused'])


if __name__ == '__main__':
    main()
