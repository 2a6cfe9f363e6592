import pytest

from mmdet_sag.fileio import is_remote


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
