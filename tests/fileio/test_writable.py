import os

import pytest

from mmdet_sag.errors import InputError
from mmdet_sag.fileio import check_writable_file, check_writable_folder


@pytest.fixture
def no_folder(tmp_path):
    """A file where a folder is expected, which stops every user, root too."""
    path = tmp_path / 'taken'
    path.write_text('')
    return path


def test_a_folder_that_can_be_made_passes_and_is_not_made(tmp_path):
    check_writable_folder(tmp_path / 'a' / 'b', '--out-dir')
    check_writable_file(tmp_path / 'a' / 'b.pkl', '--out', makes_folder=True)
    check_writable_file(tmp_path / 'b.pkl', '--out')
    assert not list(tmp_path.iterdir())


def test_a_folder_below_a_file_is_refused(no_folder):
    for path in (no_folder, no_folder / 'a' / 'b'):
        with pytest.raises(InputError, match=r"folder '.*' \(--out-dir\) cannot be written to .*taken' is no folder"):
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


def test_a_file_wants_its_folder(tmp_path):
    with pytest.raises(InputError, match='does not exist, make it first'):
        check_writable_file(tmp_path / 'a' / 'b.json', '--json')
    with pytest.raises(InputError, match='is a folder: name a file'):
        check_writable_file(tmp_path, '--json')


def test_pipes_and_other_storages_are_left_to_themselves():
    check_writable_file(os.devnull, '--json')
    check_writable_folder('s3://bucket/folder', '--work-dir')
