"""Torchvision's operators in the place of mmcv's compiled ones: the same numbers, in every door of ``mmcv.ops``."""

import math
from collections.abc import Callable

import mmcv.ops
import pytest
import torch
from mmdet.models.losses.focal_loss import py_sigmoid_focal_loss
from support.pretended_cuda import PretendedCUDA
from support.which_operators import compiled_operators, put_behind_mmcv, torchvision_operators
from torch.nn.functional import one_hot

EXACT = dict(rtol=0, atol=0)
GRADIENT = dict(rtol=1e-5, atol=1e-5)


@pytest.fixture
def stand_in():
    return torchvision_operators()


@pytest.fixture
def compiled():
    return compiled_operators()


@pytest.fixture
def use(monkeypatch):
    """A function that puts operators behind ``mmcv.ops``."""
    return lambda operators: put_behind_mmcv(operators, monkeypatch)


def outputs_and_gradients(function: Callable, *tensors: torch.Tensor) -> tuple:
    """What a function gives, and the gradients of a weighted sum of it."""
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    output = function(*leaves)
    weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
    return output.detach(), torch.autograd.grad((output * weights).sum(), leaves)


def random_rois(count: int, batch_size: int, size: float, generator: torch.Generator) -> torch.Tensor:
    corners = torch.rand((count, 4), generator=generator) * size * 1.2 - 0.1 * size
    corners = torch.cat([torch.minimum(*corners.chunk(2, 1)), torch.maximum(*corners.chunk(2, 1))], dim=1)
    return torch.cat([torch.randint(batch_size, (count, 1), generator=generator).float(), corners], dim=1)


@pytest.mark.parametrize('seed', range(6))
@pytest.mark.parametrize('aligned', [True, False])
@pytest.mark.parametrize('sampling_ratio', [0, 2])
def test_roi_align_is_equal_in_every_bit(compiled, stand_in, use, seed, aligned, sampling_ratio):
    generator = torch.Generator().manual_seed(seed)
    channels, height, width, count = (int(torch.randint(1, 24, (), generator=generator)) for _ in range(4))
    dtype = torch.float64 if seed == 5 else torch.float32
    features = torch.randn((2, channels, height, width), generator=generator).to(dtype)
    rois = random_rois(count, 2, 8 * max(height, width), generator).to(dtype)
    layer = mmcv.ops.RoIAlign(14 if seed % 2 else (3, 5), 1 / 8, sampling_ratio, 'avg', aligned)
    use(compiled)
    output, gradients = outputs_and_gradients(lambda x: layer(x, rois), features)
    use(stand_in)
    stand_in_output, stand_in_gradients = outputs_and_gradients(lambda x: layer(x, rois), features)
    torch.testing.assert_close(stand_in_output, output, **EXACT)
    torch.testing.assert_close(stand_in_gradients, gradients, **EXACT)


@pytest.mark.parametrize('seed', range(6))
@pytest.mark.parametrize('offset', [0, 1])
def test_nms_keeps_the_same_boxes_in_the_same_order(compiled, stand_in, use, seed, offset):
    generator = torch.Generator().manual_seed(seed)
    # Whole pixels: boxes whose IoU is the threshold itself.
    boxes = random_rois(200 * seed, 1, 40, generator)[:, 1:].round()
    scores = torch.rand(len(boxes), generator=generator)
    kept = []
    for operators in (compiled, stand_in):
        use(operators)
        kept.append(mmcv.ops.nms(boxes, scores, 0.5, offset, score_threshold=0.1, max_num=50))
    torch.testing.assert_close(kept[1], kept[0], **EXACT)


@pytest.mark.parametrize('seed', range(4))
@pytest.mark.parametrize('method', ['naive', 'linear', 'gaussian'])
@pytest.mark.parametrize('offset', [0, 1])
def test_soft_nms_gives_the_same_boxes_and_scores(compiled, stand_in, use, seed, method, offset):
    generator = torch.Generator().manual_seed(seed)
    boxes = random_rois(60 * seed, 1, 40, generator)[:, 1:]
    scores = torch.rand(len(boxes), generator=generator)
    results = []
    for operators in (compiled, stand_in):
        use(operators)
        results.append(mmcv.ops.soft_nms(boxes, scores, 0.3, 0.5, 0.05, method, offset))
    (dets, indices), (stand_in_dets, stand_in_indices) = results
    torch.testing.assert_close(stand_in_indices, indices, **EXACT)
    torch.testing.assert_close(stand_in_dets, dets, rtol=0, atol=1e-6)


def test_soft_nms_keeps_boxes_without_area(stand_in, use):
    boxes = torch.tensor([[4.0, 3, 5, 3], [4, 3, 5, 4], [3, 1, 3, 1], [3, 1, 3, 1], [3, 1, 3, 1], [3, 1, 3, 1]])
    scores = torch.tensor([0.9, 0.9, 0.5, 0.5, 0.4, 0.0])
    use(stand_in)
    for method in ('linear', 'naive'):
        dets, indices = mmcv.ops.soft_nms(boxes, scores, 0.6, 0.5, method=method)
        assert indices.tolist() == [0, 1, 2, 3, 4]
        assert dets[:, 4].tolist() == scores[:5].tolist()


CONVOLUTIONS = [
    dict(stride=1, padding=1),
    dict(stride=2, padding=1, dilation=1, deform_groups=2),
    dict(stride=(1, 2), padding=(2, 0), dilation=(2, 1), groups=2),
]


def convolution_inputs(seed: int, version: int, options: dict, dtype: torch.dtype = torch.float32) -> list:
    generator = torch.Generator().manual_seed(seed)
    features, weight = (torch.randn(s, generator=generator, dtype=dtype) for s in ((2, 4, 9, 11), (6, 4, 3, 3)))
    weight = weight[:, : 4 // options.get('groups', 1)]
    size = torch.nn.functional.conv2d(
        features, weight, None, **{name: value for name, value in options.items() if name != 'deform_groups'}
    ).shape[-2:]
    points = 9 * options.get('deform_groups', 1)
    # Beyond the features, too.
    offset = torch.randn((2, 2 * points, *size), generator=generator, dtype=dtype) * 2
    if version == 1:
        return [features, offset, weight]
    mask = torch.rand((2, points, *size), generator=generator, dtype=dtype)
    return [features, offset, mask, weight, torch.randn(6, generator=generator, dtype=dtype)]


def convolution(version: int, options: dict) -> Callable:
    function = mmcv.ops.deform_conv2d if version == 1 else mmcv.ops.modulated_deform_conv2d
    names = ('stride', 'padding', 'dilation', 'groups', 'deform_groups')
    arguments = [options.get(name, 0 if name == 'padding' else 1) for name in names]
    return lambda *tensors: function(*tensors, *arguments)


@pytest.mark.parametrize('options', CONVOLUTIONS)
@pytest.mark.parametrize('version', [1, 2])
def test_deformable_convolution_is_equal_and_so_are_its_gradients(compiled, stand_in, use, version, options):
    inputs = convolution_inputs(0, version, options)
    use(compiled)
    output, gradients = outputs_and_gradients(convolution(version, options), *inputs)
    use(stand_in)
    stand_in_output, stand_in_gradients = outputs_and_gradients(convolution(version, options), *inputs)
    torch.testing.assert_close(stand_in_output, output, **(EXACT if version == 2 else GRADIENT))
    torch.testing.assert_close(stand_in_gradients, gradients, **GRADIENT)


@pytest.mark.parametrize('options', CONVOLUTIONS)
@pytest.mark.parametrize('version', [1, 2])
def test_the_gradients_of_deformable_convolution_are_those_of_its_output(stand_in, use, version, options):
    use(stand_in)
    inputs = [tensor.requires_grad_() for tensor in convolution_inputs(1, version, options, torch.float64)]
    torch.autograd.gradcheck(convolution(version, options), inputs, fast_mode=True, nondet_tol=1e-9)


@pytest.mark.parametrize('wanted', [(0,), (1,), (2,), (0, 2)])
def test_deformable_convolution_gives_the_gradients_that_are_wanted_twice_over(stand_in, use, wanted):
    use(stand_in)
    options = CONVOLUTIONS[0]
    inputs = convolution_inputs(2, 1, options)
    _, expected = outputs_and_gradients(convolution(1, options), *inputs)
    leaves = [tensor.clone().requires_grad_(index in wanted) for index, tensor in enumerate(inputs)]
    output = convolution(1, options)(*leaves)
    weights = torch.linspace(-1, 1, output.numel()).view_as(output)
    for factor in (1.0, 2.0):
        found = torch.autograd.grad((output * weights * factor).sum(), [leaves[i] for i in wanted], retain_graph=True)
        torch.testing.assert_close(list(found), [expected[index] * factor for index in wanted], **GRADIENT)


def pooled_by_hand(features: torch.Tensor, rois: torch.Tensor, size: tuple, scale: float) -> torch.Tensor:
    """RoIPool as mmcv defines it: https://github.com/open-mmlab/mmcv, roi_pool_cuda_kernel.cuh."""
    output = features.new_zeros((len(rois), features.size(1), *size))
    height, width = features.shape[-2:]
    for n, (batch, *corners) in enumerate(rois.tolist()):
        x1, y1, x2, y2 = corners[0] * scale, corners[1] * scale, (corners[2] + 1) * scale, (corners[3] + 1) * scale
        if x2 <= x1 or y2 <= y1:
            continue
        for i in range(size[0]):
            for j in range(size[1]):
                top, bottom = (y1 + (y2 - y1) * k / size[0] for k in (i, i + 1))
                left, right = (x1 + (x2 - x1) * k / size[1] for k in (j, j + 1))
                rows = slice(*(min(max(k, 0), height) for k in (math.floor(top), math.ceil(bottom))))
                columns = slice(*(min(max(k, 0), width) for k in (math.floor(left), math.ceil(right))))
                cells = features[int(batch), :, rows, columns].flatten(1)
                if cells.size(1):
                    output[n, :, i, j] = cells.amax(dim=1)
    return output


@pytest.mark.parametrize('seed', range(4))
def test_roi_pool_is_mmcvs_and_not_torchvisions(stand_in, use, seed):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn((2, 3, 9, 12), generator=generator, dtype=torch.float64)
    rois = random_rois(12, 2, 90, generator).double()
    rois[0, 1:] = torch.tensor([50.0, 40, 20, 60])
    rois[1, 1:] = torch.tensor([500.0, 400, 600, 500])
    use(stand_in)
    layer = mmcv.ops.RoIPool((3, 4), 1 / 8)
    output, (gradient,) = outputs_and_gradients(lambda x: layer(x, rois), features)
    expected, (expected_gradient,) = outputs_and_gradients(lambda x: pooled_by_hand(x, rois, (3, 4), 1 / 8), features)
    torch.testing.assert_close(output, expected, **EXACT)
    torch.testing.assert_close(gradient, expected_gradient)


@pytest.mark.parametrize('gamma', [2.0, 1.5, 0.0])
def test_sigmoid_focal_loss_is_that_of_the_formula(stand_in, use, gamma):
    use(stand_in)
    logits = torch.randn(50, 4, dtype=torch.float64) * 8
    # 4: background.
    target = torch.randint(5, (50,))
    found = outputs_and_gradients(lambda x: mmcv.ops.sigmoid_focal_loss(x, target, gamma, 0.25, None, 'none'), logits)
    expected = outputs_and_gradients(
        lambda x: py_sigmoid_focal_loss(x, one_hot(target, 5)[:, :4], gamma=gamma, alpha=0.25, reduction='none'),
        logits,
    )
    torch.testing.assert_close(found, expected)


def test_sigmoid_focal_loss_stays_finite_and_weighs_the_classes(stand_in, use):
    use(stand_in)
    logits = torch.tensor([[-200.0, 200.0], [200.0, -200.0]])
    target = torch.tensor([0, 1])
    plain, gradients = outputs_and_gradients(lambda x: mmcv.ops.sigmoid_focal_loss(x, target), logits)
    assert plain.isfinite() and gradients[0].isfinite().all()
    weights = torch.tensor([1.0, 3.0])
    rows = mmcv.ops.sigmoid_focal_loss(logits, target, 2.0, 0.25, None, 'none')
    weighted = mmcv.ops.sigmoid_focal_loss(logits, target, 2.0, 0.25, weights, 'none')
    torch.testing.assert_close(weighted, rows * weights[target, None])


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single_and_given_in_half(stand_in, use, dtype):
    use(stand_in)
    features = torch.randn(1, 2, 8, 8).to(dtype)
    rois = torch.tensor([[0.0, 1, 1, 6, 6]])
    layer = mmcv.ops.RoIAlign(3)
    output, (gradient,) = outputs_and_gradients(lambda x: layer(x, rois.to(dtype)), features)
    assert output.dtype == gradient.dtype == dtype
    torch.testing.assert_close(output, layer(features.float(), rois).to(dtype), **EXACT)
    boxes = torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 8], [20, 20, 30, 30]], dtype=dtype)
    assert mmcv.ops.nms(boxes, torch.tensor([0.9, 0.8, 0.7], dtype=dtype), 0.5)[1].tolist() == [0, 2]


@pytest.mark.parametrize('version', [1, 2])
def test_deformable_convolution_trains_under_autocast(stand_in, use, version):
    use(stand_in)
    inputs = convolution_inputs(3, version, CONVOLUTIONS[0])
    single = convolution(version, CONVOLUTIONS[0])(*inputs)
    leaves = [tensor.requires_grad_() for tensor in inputs]
    # A convolution computes the offset.
    with torch.autocast('cpu', torch.bfloat16):
        output = convolution(version, CONVOLUTIONS[0])(leaves[0], leaves[1].bfloat16(), *leaves[2:])
    output.float().sum().backward()
    assert output.dtype == torch.bfloat16
    assert all(leaf.grad.dtype == torch.float32 and leaf.grad.isfinite().all() for leaf in leaves)
    assert (output - single).abs().mean() < 0.05 * single.abs().mean()


def test_empty_inputs_pass(stand_in, use):
    use(stand_in)
    features, rois = torch.randn(1, 2, 8, 8), torch.zeros(0, 5)
    for layer in (mmcv.ops.RoIAlign(3), mmcv.ops.RoIPool(3)):
        output, (gradient,) = outputs_and_gradients(lambda x, layer=layer: layer(x, rois), features)
        assert output.shape == (0, 2, 3, 3)
        assert not gradient.any()
    assert len(mmcv.ops.nms(torch.zeros(0, 4), torch.zeros(0), 0.5)[1]) == 0
    assert len(mmcv.ops.soft_nms(torch.zeros(0, 4), torch.zeros(0))[1]) == 0


def test_a_deterministic_run_goes_on_as_with_mmcv(stand_in, use):
    use(stand_in)
    torch.use_deterministic_algorithms(True)
    try:
        outputs_and_gradients(
            lambda x: mmcv.ops.RoIAlign(3)(x, torch.tensor([[0.0, 1, 1, 6, 6]])), torch.randn(1, 2, 8, 8)
        )
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


def test_an_operator_that_is_not_covered_says_so_when_it_is_called(stand_in, use):
    use(stand_in)
    boxes = torch.tensor([[4.0, 4, 4, 4, 0]])
    with pytest.raises(
        NotImplementedError, match="mmcv's operator nms_rotated has no counterpart.*install mmcv"
    ) as error:
        mmcv.ops.nms_rotated(boxes, torch.ones(1), 0.5)
    assert '\n' not in str(error.value)
    layer = mmcv.ops.RoIAlign(3, pool_mode='max')
    with pytest.raises(NotImplementedError, match="roi_align_forward with pool_mode='max'"):
        layer(torch.randn(1, 2, 8, 8), torch.tensor([[0.0, 1, 1, 6, 6]]))


def test_every_operator_of_mmcv_is_there_by_name(compiled, stand_in):
    names = [name for name in dir(compiled) if not name.startswith('__')]
    assert len(names) > 100
    assert all(callable(getattr(stand_in, name)) for name in names)
    assert not hasattr(stand_in, '__wrapped__')


def test_the_operators_compile(stand_in, use):
    use(stand_in)
    rois, target = torch.tensor([[0.0, 1, 1, 6, 6]]), torch.arange(8) % 3
    align, pool, conv = mmcv.ops.RoIAlign(3), mmcv.ops.RoIPool(3, 1.0), mmcv.ops.ModulatedDeformConv2dPack(2, 2, 3)
    for function, *tensors in (
        (lambda x: align(x, rois) * 2, torch.randn(1, 2, 8, 8)),
        (lambda x: pool(x, rois) * 2, torch.randn(1, 2, 8, 8)),
        (lambda x: conv(x) * 2, torch.randn(1, 2, 8, 8)),
        (lambda x: mmcv.ops.sigmoid_focal_loss(x, target, 2.0, 0.25, None, 'none') * 2, torch.randn(8, 3)),
    ):
        found = outputs_and_gradients(torch.compile(function, backend='aot_eager'), *tensors)
        torch.testing.assert_close(found, outputs_and_gradients(function, *tensors))


def test_deformable_convolution_stays_in_half_precision_where_its_kernel_takes_it(stand_in):
    tensors = [torch.zeros(shape) for shape in ((1, 2, 4, 4), (3, 2, 3, 3), (1, 18, 4, 4), (1, 9, 4, 4))]
    with PretendedCUDA() as cuda:
        for dtype, device, expected in (
            (torch.float16, cuda.device, torch.float16),
            (torch.bfloat16, cuda.device, torch.float32),
            (torch.float16, 'cpu', torch.float32),
        ):
            found = stand_in._deform_conv_tensors(*(tensor.to(dtype).to(device) for tensor in tensors), None)
            assert {tensor.dtype for tensor in found} == {expected}


@pytest.mark.parametrize('aligned', [True, False])
@pytest.mark.parametrize('sampling_ratio', [0, 2])
def test_a_roi_that_is_no_number_has_no_features_and_leaves_the_others(stand_in, use, aligned, sampling_ratio):
    use(stand_in)
    layer = mmcv.ops.RoIAlign(3, 1 / 8, sampling_ratio, 'avg', aligned)
    features = torch.rand((1, 2, 12, 16), generator=torch.Generator().manual_seed(0))
    rois = torch.tensor([[0, 5, 8, 60, 70], [0, 5, math.nan, 60, 70], [0, *[math.nan] * 4]])
    output, (gradient,) = outputs_and_gradients(lambda x: layer(x, rois), features)
    torch.testing.assert_close(output[:1], layer(features, rois[:1]), **EXACT)
    assert not output[1:].any()
    assert gradient.isfinite().all()


@pytest.mark.parametrize('version', [1, 2])
def test_offsets_that_are_no_numbers_read_nothing(stand_in, use, version):
    use(stand_in)
    generator = torch.Generator().manual_seed(0)
    features, weight = torch.rand((1, 4, 6, 7), generator=generator), torch.rand((4, 4, 3, 3), generator=generator)
    offset = torch.full((1, 18, 6, 7), math.nan)
    if version == 1:
        output, gradients = outputs_and_gradients(
            lambda x, o: mmcv.ops.deform_conv2d(x, o, weight, 1, 1), features, offset
        )
    else:
        mask = torch.ones(1, 9, 6, 7)
        output, gradients = outputs_and_gradients(
            lambda x, o: mmcv.ops.modulated_deform_conv2d(x, o, mask, weight, None, 1, 1), features, offset
        )
    assert not output.any()
    assert not gradients[0].any()
