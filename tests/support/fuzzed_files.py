"""Run in a process of its own: reads mutated and crafted checkpoints, and prints how many were loaded and refused.

Every other one is read by its address, from a server of this process.
"""

import contextlib
import copy
import copyreg
import functools
import http.server
import io
import os
import pickle
import random
import struct
import sys
import tempfile
import threading
import types
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from mmengine.logging import HistoryBuffer, MMLogger

from mmdet_sag.engine.checkpoint_files import load_checkpoint_file
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


def text(value: str) -> bytes:
    data = value.encode()
    return b'X' + struct.pack('<I', len(data)) + data


def tuple_of(*items: bytes) -> bytes:
    return b'(' + b''.join(items) + b't'


# What no file may call or even touch. The extension registry names the first by a number.
CANARIES = [
    'trap.call',
    'trap.Class',
    'trap.Class.method',
    'os.mkdir',
    'posix.system',
    'builtins.eval',
    'builtins.exec',
]
CANARIES += ['builtins.getattr', 'builtins.__import__', 'unplanted.module', 'torch.load', 'torch.serialization._load']
CANARIES += ['numpy.load', 'numpy._core.multiarray._reconstruct', 'torch.hub.load', 'torch._dynamo.config.load']
CANARIES += ['torch.storage._load_from_bytes', 'codecs.encode', 'operator.attrgetter', 'functools.partial']
EXTENSION = 77


def crafted(generator: random.Random) -> bytes:
    """A pickle that tries to call something, in one of the ways that there are, somewhere in a checkpoint."""
    module, _, name = generator.choice(CANARIES).rpartition('.')
    arguments = generator.choice(
        [b')', tuple_of(text('canary')), tuple_of(b'}', text('canary')), tuple_of(text('a'), tuple_of(text('b')))]
    )
    found = generator.choice(
        [
            f'c{module}\n{name}\n'.encode(),
            text(module) + text(name) + b'\x93',
            text(module) + b'\x94' + text(name) + b'\x94\x93\x94',
            b'\x8c' + bytes([len(module)]) + module.encode() + text(name) + b'\x93',
            bytes([0x82, EXTENSION]),
            b'\x83' + struct.pack('<H', EXTENSION),
            b'\x84' + struct.pack('<i', EXTENSION),
            # Through what is allowed.
            b'c__builtin__\ngetattr\n' + tuple_of(f'c{module}\n'.encode() + b'Class\n', text(name)) + b'R',
            b'ctorch._tensor\n_rebuild_from_type_v2\n'
            + tuple_of(f'c{module}\n{name}\n'.encode(), b'ctorch\nTensor\n', arguments, b'}')
            + b'R',
            b'ctorch._utils\n_rebuild_tensor_v2\n' + tuple_of(f'c{module}\n{name}\n'.encode(), arguments) + b'R',
        ]
    )
    where = f'{module}\n{name}\n'.encode()
    call = generator.choice(
        [
            found + arguments + b'R',
            found + arguments + b'\x81',
            found + arguments + b'}\x92',
            b'(' + found + text('canary') + b'o',
            b'(' + text('canary') + b'i' + where,
            found + b')\x81' + tuple_of(b'}', b'}' + text('attribute') + found + b's') + b'b',
            found + b'}' + text('__dict__') + found + b'sb',
            b'ccollections\nOrderedDict\n)R' + text('key') + found + arguments + b'Rs',
            b'ccollections\nOrderedDict\n)R}' + text('__reduce__') + found + b'sb',
            found + text('canary') + b'a',
            found + b'(' + text('canary') + b'e',
            tuple_of(text('storage'), found, text('0'), text('cpu'), b'K\x04') + b'Q',
            tuple_of(text('module'), found, text('file'), text('source')) + b'Q',
            found + b'Q',
            b'P' + where.split(b'\n')[0] + b'\n',
            b'cmmengine.logging.history_buffer\nHistoryBuffer\n)\x81}' + text('_statistics_methods') + found + b'sb',
        ]
    )
    memo = b'q' + bytes([generator.randrange(20)])
    before = generator.choice([b'', b'', b'}' + text('state_dict'), b'(', b']', b'K\x01' + memo])
    after = generator.choice([b'', b'', b's', b't', b'a', b'0', memo + b'h' + memo[1:]])
    protocol = generator.choice([b'', b'\x80\x02', b'\x80\x04', b'\x80\x05', b'\x80\x63'])
    frame = generator.choice([b'', b'', b'\x95' + struct.pack('<Q', 5)])
    return protocol + frame + before + call + after + b'.'


def packed(pickled: bytes, whole: bytes, generator: random.Random) -> bytes:
    """A crafted pickle as it is, in a file of PyTorch of either format, or in an archive inside of one."""
    way = generator.randrange(5)
    if way == 0:
        return pickled
    if way == 1:
        # The old format: three pickles come before the content.
        head = b''.join(
            pickle.dumps(part, protocol=2) for part in (0x1950A86A20F9469CFC6C, 1001, {'little_endian': True})
        )
        return head + pickled + pickle.dumps([], protocol=2)
    with zipfile.ZipFile(io.BytesIO(whole)) as old, io.BytesIO() as file:
        with zipfile.ZipFile(file, 'w') as new:
            for name in old.namelist():
                new.writestr(name, pickled if name.endswith('data.pkl') else old.read(name))
            if way == 3:
                new.writestr('archive/constants.pkl', pickled)
                new.writestr('archive/code/__torch__.py', 'import os\nos.mkdir("canary")\n')
        inner = file.getvalue()
    if way == 4:
        with io.BytesIO() as file:
            with zipfile.ZipFile(file, 'w') as new:
                new.writestr('model.pth', inner)
            return file.getvalue()
    return inner


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

    events = ('os.system', 'os.exec', 'os.mkdir', 'subprocess.Popen', 'exec', 'compile', 'os.remove', 'marshal.loads')

    def __init__(self) -> None:
        self.on = False
        self.seen = []
        self.thread = threading.current_thread()
        sys.addaudithook(self._hook)
        sys.modules['trap'] = self._trap()
        copyreg.add_extension('trap', 'call', EXTENSION)

    def _trap(self) -> types.ModuleType:
        def call(*args, **kwargs):
            self.seen.append(('trap', args))

        class Class:
            method = call
            __init__ = __setstate__ = __setattr__ = call

        trap = types.ModuleType('trap')
        trap.call, trap.Class = call, Class
        return trap

    def _hook(self, event: str, arguments: tuple) -> None:
        is_import = event == 'import' and arguments[0].startswith(('unplanted', 'trap'))
        # PyTorch's reader is its own: pickle's would look up names.
        is_lookup = event == 'pickle.find_class' and arguments[0] == 'trap'
        if '/cache/' in str(arguments[:1]):
            return
        if self.on and threading.current_thread() is self.thread and (event in self.events or is_import or is_lookup):
            self.seen.append((event, str(arguments)[:100]))


def serve(folder: str) -> str:
    """Serve a folder, and return its address."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args) -> None:
            pass

    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(Handler, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f'http://127.0.0.1:{server.server_port}'


def main() -> None:
    mutated, made = map(int, sys.argv[1:3])
    warnings.simplefilter('ignore')
    MMLogger.get_instance('mmengine', log_level='ERROR')
    files = []
    for new in (True, False):
        file = io.BytesIO()
        torch.save(content(), file, _use_new_zipfile_serialization=new)
        files.append((file.getvalue(), mutate))
    whole = files[0][0]
    files.insert(0, (files[0][0], mutate_inside))
    files += [(pickle.dumps(arrays(), protocol=protocol), mutate) for protocol in (0, 2, 4, 5)]
    watch = Watch()
    counts = dict(loaded=0, refused=0)
    generator = random.Random(0)

    def read(data: bytes, by_address: bool) -> None:
        path.write_bytes(data)
        watch.on = True
        try:
            # What a file makes Python say is of no interest.
            with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
                loaded = load_checkpoint_file(f'{address}/{path.name}') if by_address else read_weights(path)
            watch.on = False
            use(loaded)
            counts['loaded'] += 1
        except InputError:
            counts['refused'] += 1
        finally:
            watch.on = False
            path.unlink()
        assert not watch.seen, (watch.seen, data)

    with tempfile.TemporaryDirectory() as folder:
        os.environ['TORCH_HOME'] = f'{folder}/cache'
        address = serve(folder)
        os.makedirs(f'{folder}/cache/hub/checkpoints')
        os.chdir(folder)
        path = Path(folder, 'whole')
        for data, _ in files:
            path.write_bytes(data)
            use(read_weights(path))
        # What it imports is imported here.
        path.write_bytes(whole)
        load_checkpoint_file(f'{address}/{path.name}')
        for i in range(mutated):
            data, mutation = files[i % len(files)]
            path = Path(folder, f'{i}.pth')
            read(mutation(data, generator), by_address=False)
        print(counts['loaded'], counts['refused'])
        counts.update(loaded=0, refused=0)
        for i in range(made):
            path = Path(folder, f'made{i}.pth')
            read(packed(crafted(generator), whole, generator), by_address=i % 2 == 1)
        print(counts['loaded'], counts['refused'])
        assert not Path('canary').exists()


if __name__ == '__main__':
    main()
