"""The compiled transforms are products with the matrices."""

import pytest
import torch

from mmdet_sag.cpu import winograd_transforms

pytest.importorskip('numba')

from mmdet_sag.cpu import winograd_kernels

BOTH = (winograd_kernels, winograd_transforms)


@pytest.fixture(params=[1, 2], autouse=True)
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize('size', [(1, 1), (3, 6), (4, 4), (14, 14), (33, 130), (97, 40)])
def test_tiles_of_any_image(size):
    torch.manual_seed(0)
    images, bias = torch.randn(3, *size, 50), torch.randn(50)
    for chunk in winograd_transforms.chunks(3, *size):
        for transform in ('transform_inputs', 'transform_gradients'):
            actual, expected = torch.full((2, 36, chunk.count, 50), torch.nan)
            for module, points in zip(BOTH, (actual, expected)):
                getattr(module, transform)(images, chunk, points)
            torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
        actual, expected = torch.full((2, *images.shape), -1.0)
        for module, out in zip(BOTH, (actual, expected)):
            module.transform_outputs(torch.randn(36, chunk.count, 50, generator=_seed()), chunk, out, bias)
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-4)
        untouched = torch.ones(3, size[0], dtype=torch.bool)
        untouched[chunk.images, chunk.rows] = False
        assert (actual[untouched] == -1).all()


def _seed() -> torch.Generator:
    return torch.Generator().manual_seed(1)
