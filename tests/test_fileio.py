import errno
import fcntl
import os
import resource
import secrets
import signal
import stat
import subprocess
import sys
import tempfile
from contextlib import contextmanager, suppress
from importlib import import_module

import pytest
from mmengine.fileio import put_text
from support.small_disk import mount_small_disk

from mmdet_sag.errors import InputError
from mmdet_sag.fileio import atomic_folder, atomic_write, check_writable_file, check_writable_folder, is_remote


def test_text_and_bytes_are_written(tmp_path):
    with atomic_write(tmp_path / 'text', 'w') as file:
        file.write('Größe')
    with atomic_write(tmp_path / 'bytes') as file:
        file.write(b'\x00\x01')
    assert (tmp_path / 'text').read_bytes() == 'Größe'.encode()
    assert (tmp_path / 'bytes').read_bytes() == b'\x00\x01'
    assert len(os.listdir(tmp_path)) == 2


@pytest.mark.parametrize('error', [ValueError, KeyboardInterrupt])
def test_an_error_leaves_the_previous_file_and_nothing_else(tmp_path, error):
    path = tmp_path / 'file'
    path.write_text('old')
    with pytest.raises(error), atomic_write(path, 'w') as file:
        file.write('new')
        raise error
    assert path.read_text() == 'old'
    assert os.listdir(tmp_path) == ['file']


def test_the_previous_file_stays_until_the_new_one_is_complete(tmp_path):
    path = tmp_path / 'file'
    path.write_text('old')
    with atomic_write(path, 'w') as file:
        file.write('new')
        file.flush()
        assert path.read_text() == 'old'
    assert path.read_text() == 'new'


def test_a_killed_process_leaves_the_previous_file_and_the_next_one_cleans_up(tmp_path):
    path = tmp_path / 'file'
    path.write_text('old')
    script = f"""
import os, signal
from mmdet_sag.fileio import atomic_write
with atomic_write({str(path)!r}, 'w') as file:
    file.write('new' * 10000)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, '-c', script]).returncode == -signal.SIGKILL
    assert path.read_text() == 'old'
    with atomic_write(path, 'w') as file:
        file.write('newer')
    assert path.read_text() == 'newer'
    assert os.listdir(tmp_path) == ['file']


def test_two_processes_that_write_one_file_do_not_share_a_partial_one(tmp_path):
    path = tmp_path / 'file'
    with atomic_write(path, 'w') as first:
        first.write('first')
        first.flush()
        with atomic_write(path, 'w') as second:
            second.write('second')
        assert path.read_text() == 'second'
    assert path.read_text() == 'first'
    assert os.listdir(tmp_path) == ['file']


def test_a_planted_link_is_not_followed_and_not_in_the_way(tmp_path, monkeypatch):
    victim = tmp_path / 'thesis'
    victim.write_text('years of work')
    # Even a name that was guessed.
    tokens = ['guessed', 'other']
    monkeypatch.setattr(secrets, 'token_hex', lambda size: tokens.pop(0))
    for name in ('.file.partial', '.file.guessed.partial'):
        (tmp_path / name).symlink_to(victim)
    os.mkfifo(tmp_path / '.file.pipe.partial')
    with pytest.raises(FileExistsError), atomic_write(tmp_path / 'file', 'w') as file:
        file.write('new')
    with atomic_write(tmp_path / 'file', 'w') as file:
        file.write('new')
    assert victim.read_text() == 'years of work'
    assert (tmp_path / 'file').read_text() == 'new'
    assert not (tmp_path / 'file').is_symlink()


@pytest.mark.parametrize('number', [errno.EINVAL, errno.ENOTSUP])
def test_a_storage_that_cannot_flush_folders_still_gets_the_file(number, tmp_path, monkeypatch):
    fsync = os.fsync

    def file_fsync(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    monkeypatch.setattr(os, 'fsync', file_fsync)
    with atomic_write(tmp_path / 'file', 'w') as file:
        file.write('new')
    assert (tmp_path / 'file').read_text() == 'new'


def test_a_storage_without_locks_still_gets_the_file(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(fcntl, 'flock', refuse)
    (tmp_path / '.file.0123.partial').write_text('of someone')
    with atomic_write(tmp_path / 'file', 'w') as file:
        file.write('new')
    assert (tmp_path / 'file').read_text() == 'new'
    assert (tmp_path / '.file.0123.partial').exists()


def test_a_name_may_be_as_long_as_names_can_be(tmp_path):
    with atomic_write(tmp_path / ('ü' * 127), 'w') as file:
        file.write('new')
    assert os.listdir(tmp_path) == ['ü' * 127]


@contextmanager
def small_files():
    """Writing beyond 4 KiB of a file fails, as it does on a full disk."""
    # No fixture: pytest's own output, which may go to a longer file, comes between a test and the end of its fixtures.
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_leaves_the_previous_file(tmp_path):
    path = tmp_path / 'file'
    path.write_bytes(b'old')
    with small_files(), pytest.raises(OSError), atomic_write(path) as file:
        file.write(bytes(10_000))
    assert path.read_bytes() == b'old'
    assert os.listdir(tmp_path) == ['file']


def test_a_link_stays_a_link_to_the_file_that_is_replaced(tmp_path):
    (tmp_path / 'folder').mkdir()
    target, link = tmp_path / 'folder/target', tmp_path / 'link'
    target.write_text('old')
    link.symlink_to(target)
    with atomic_write(link, 'w') as file:
        file.write('new')
    assert link.is_symlink()
    assert target.read_text() == 'new'


def test_the_permissions_of_a_file_stay(tmp_path):
    path = tmp_path / 'file'
    path.write_text('old')
    path.chmod(0o600)
    with atomic_write(path, 'w') as file:
        file.write('new')
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_pipe_is_written_to_directly(tmp_path):
    path = tmp_path / 'pipe'
    os.mkfifo(path)
    with subprocess.Popen(['cat', path], stdout=subprocess.PIPE, text=True) as reader:
        with atomic_write(path, 'w') as file:
            file.write('new')
        assert reader.stdout.read() == 'new'
    assert stat.S_ISFIFO(path.stat().st_mode)


def test_mmengine_writes_files_atomically_and_creates_their_folder(tmp_path):
    path = tmp_path / 'folder/file'
    import_module('mmdet_sag.engine.checkpoint_files')
    put_text('new', path, backend_args=dict(backend='atomic_file'))
    assert path.read_text() == 'new'
    assert os.listdir(path.parent) == ['file']


def test_a_folder_appears_when_it_is_complete_and_replaces_the_previous_one(tmp_path):
    path = tmp_path / 'parent/folder'
    for content in ('old', 'new'):
        with atomic_folder(path) as folder:
            (folder / content).write_text(content)
            assert not (path / content).exists()
        assert os.listdir(path) == [content]
    assert os.listdir(path.parent) == ['folder']


def test_a_folder_that_is_a_disk_of_its_own_or_that_somebody_works_in_stays(tmp_path, monkeypatch):
    with mount_small_disk(tmp_path / 'disk', '64k') as disk:
        monkeypatch.chdir(disk)
        for content in ('old', 'new'):
            with atomic_folder(disk) as folder:
                (folder / content).write_text(content)
                assert not os.path.exists(content)
            assert os.listdir() == [content]
        with pytest.raises(FileNotFoundError), atomic_folder('.') as folder:
            folder.rmdir()
        assert os.listdir() == ['new']
        monkeypatch.chdir(tmp_path)
    with atomic_folder(tmp_path / 'used') as folder:
        (folder / 'old').touch()
    monkeypatch.chdir(tmp_path / 'used')
    with atomic_folder('.') as folder:
        (folder / 'new').touch()
    assert os.listdir() == os.listdir(tmp_path / 'used') == ['new']


@pytest.mark.parametrize('kind', ['no rights beside it', 'of a container image', 'mounted from its own disk'])
def test_a_folder_into_which_nothing_can_be_moved_is_filled_inside(tmp_path, monkeypatch, kind):
    own = tmp_path / 'own'
    own.mkdir()
    (own / 'old').touch()
    mkdtemp, rename = tempfile.mkdtemp, os.rename

    def mkdtemp_inside(*args, **options):
        if options.get('dir') == tmp_path or tmp_path in args:
            raise PermissionError(errno.EACCES, 'Permission denied')
        return mkdtemp(*args, **options)

    def rename_entries(source, target):
        if source == own:
            raise OSError(errno.EXDEV, 'Invalid cross-device link')
        rename(source, target)

    if kind == 'mounted from its own disk':
        # It does not look like a mount point.
        if subprocess.run(['mount', '--bind', own, own], capture_output=True).returncode:
            pytest.skip('needs the right to mount')
    elif kind == 'of a container image':
        monkeypatch.setattr(os, 'rename', rename_entries)
    else:
        monkeypatch.setattr(tempfile, 'mkdtemp', mkdtemp_inside)
    try:
        with atomic_folder(own) as folder:
            (folder / 'new').touch()
            assert os.listdir(tmp_path) == ['own'] and (own / 'old').exists()
        assert os.listdir(own) == ['new']
    finally:
        if kind == 'mounted from its own disk':
            subprocess.run(['umount', own], check=True)


def test_a_link_stays_a_link_to_the_folder_that_is_replaced(tmp_path):
    (tmp_path / 'disk').mkdir()
    (tmp_path / 'disk/old').touch()
    (tmp_path / 'link').symlink_to(tmp_path / 'disk')
    with atomic_folder(tmp_path / 'link') as folder:
        (folder / 'new').touch()
    assert os.readlink(tmp_path / 'link') == str(tmp_path / 'disk')
    assert os.listdir(tmp_path / 'disk') == ['new']


def test_an_error_leaves_the_previous_folder_and_nothing_else(tmp_path):
    path = tmp_path / 'folder'
    path.mkdir()
    (path / 'old').touch()
    with pytest.raises(KeyboardInterrupt), atomic_folder(path) as folder:
        (folder / 'new').touch()
        raise KeyboardInterrupt
    assert os.listdir(path) == ['old']
    assert os.listdir(tmp_path) == ['folder']


def test_a_file_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    steps = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(descriptor):
        steps.append('folder' if stat.S_ISDIR(os.fstat(descriptor).st_mode) else 'file')
        fsync(descriptor)

    monkeypatch.setattr(os, 'fsync', noted_fsync)
    monkeypatch.setattr(os, 'replace', lambda *paths: (steps.append('rename'), replace(*paths)))
    with atomic_write(tmp_path / 'file') as file:
        file.write(b'new')
    assert steps == ['file', 'rename', 'folder']


def test_the_previous_folder_comes_back_if_the_new_one_cannot_be_renamed(tmp_path):
    path = tmp_path / 'folder'
    path.mkdir()
    (path / 'old').touch()
    with pytest.raises(OSError), atomic_folder(path) as folder:
        # What the block does to its folder makes the rename fail.
        folder.rmdir()
    assert os.listdir(path) == ['old']
    assert os.listdir(tmp_path) == ['folder']


@pytest.mark.parametrize(
    'path', ['s3://bucket/coco', 'cluster:s3://bucket/a.pth', 'https://host/a.pth', 'open-mmlab://resnet50']
)
def test_addresses_are_remote(path):
    assert is_remote(path)


@pytest.mark.parametrize('path', ['data/coco', '/data/a:b.json', '~/weights.pth', ''])
@pytest.mark.parametrize('backend_args', [None, {}, dict(backend='local'), dict(backend='atomic_file')], ids=str)
def test_plain_paths_are_local(path, backend_args):
    assert not is_remote(path, backend_args)


def test_a_plain_path_that_a_storage_backend_reads_is_remote():
    assert is_remote('bucket/coco', dict(backend='petrel'))


@pytest.fixture
def no_folder(tmp_path):
    """A file where a folder is expected: not even root can write below it."""
    path = tmp_path / 'taken'
    path.write_text('')
    return path


def test_a_folder_that_can_be_created_passes_and_is_not_created(tmp_path):
    check_writable_folder(tmp_path / 'a' / 'b', '--out-dir')
    check_writable_file(tmp_path / 'a' / 'b.pkl', '--out', makes_folder=True)
    check_writable_file(tmp_path / 'b.pkl', '--out')
    assert not list(tmp_path.iterdir())


def test_a_folder_below_a_file_is_refused(no_folder):
    for path in (no_folder, no_folder / 'a' / 'b'):
        with pytest.raises(
            InputError, match=r"folder '.*' \(--out-dir\) cannot be written to .*taken' is not a folder"
        ):
            check_writable_folder(path, '--out-dir')
    with pytest.raises(InputError, match='--out'):
        check_writable_file(no_folder / 'b.pkl', '--out', makes_folder=True)


@pytest.mark.skipif(not hasattr(os, 'geteuid') or os.geteuid() == 0, reason='root may write everywhere')
def test_a_folder_without_rights_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(InputError, match='Permission denied'):
            check_writable_folder(tmp_path / 'a', '--work-dir')
    finally:
        tmp_path.chmod(0o700)


def test_the_folder_of_a_file_must_exist(tmp_path):
    with pytest.raises(InputError, match='does not exist, create it first'):
        check_writable_file(tmp_path / 'a' / 'b.json', '--json')
    with pytest.raises(InputError, match='is a folder: name a file'):
        check_writable_file(tmp_path, '--json')


def test_pipes_and_remote_storages_are_not_checked():
    check_writable_file(os.devnull, '--json')
    check_writable_folder('s3://bucket/folder', '--work-dir')


def test_a_full_disk_is_known_before_the_work(tmp_path):
    with mount_small_disk(tmp_path / 'disk', '64k') as disk:
        check_writable_folder(disk, '--work-dir')
        (disk / 'film').write_bytes(bytes(60 * 1024))
        with suppress(OSError), (disk / 'rest').open('wb', buffering=0) as file:
            while file.write(bytes(512)):
                continue
        with pytest.raises(InputError, match=r"folder '.*disk' \(--work-dir\) cannot be written to \(No space left"):
            check_writable_folder(disk, '--work-dir')
