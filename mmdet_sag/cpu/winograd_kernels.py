"""The transforms of :mod:`winograd_transforms` for contiguous tensors, compiled by Numba: several times as fast.

They follow from its matrices: one axis after the other, and what a point and its negative share is computed once.
Compiling takes seconds, once on a machine: Numba keeps the result on disk.
"""

import threading
from collections.abc import Callable

import numba
import numpy as np
import torch
from numba import prange
from torch import Tensor

from .winograd_transforms import POINTS, Chunk

if numba.config.DISABLE_JIT:
    raise ImportError('Numba was told not to compile')

MIN_CHANNELS = 48
MIN_TRAINED_TILES = 20

_P, _Q = (np.float32(point) for point in POINTS)
_P2, _Q2 = _P**2, _Q**2
_P3, _Q3 = _P**3, _Q**3
_P2_Q2, _P2_PLUS_Q2 = _P2 * _Q2, _P2 + _Q2
# Not every threading layer of Numba may be entered twice.
_LOCK = threading.Lock()


def transform_inputs(x: Tensor, chunk: Chunk, points: Tensor) -> None:
    _run(_inputs, _inputs_in_parallel, x.numpy(), chunk.first, points.numpy())


def transform_gradients(grad: Tensor, chunk: Chunk, points: Tensor) -> None:
    _run(_gradients, _gradients_in_parallel, grad.numpy(), chunk.first, points.numpy())


def transform_outputs(points: Tensor, chunk: Chunk, out: Tensor, bias: Tensor | None) -> None:
    bias = np.zeros(out.shape[3], np.float32) if bias is None else bias.numpy()
    _run(_outputs, _outputs_in_parallel, points.numpy(), chunk.first, out.numpy(), bias)


def _run(kernel: Callable, parallel_kernel: Callable, *arguments) -> None:
    threads = min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS)
    if threads == 1:
        kernel(0, 1, *arguments)
        return
    with _LOCK:
        before = numba.get_num_threads()
        numba.set_num_threads(threads)
        try:
            parallel_kernel(threads, *arguments)
        finally:
            numba.set_num_threads(before)


def _compiled(**choices) -> Callable:
    # Of the liberties of fast mathematics the one that keeps NaN and infinity: one rounding for a product and a sum.
    options = dict(nogil=True, fastmath={'contract'}, error_model='numpy', **choices)

    def decorate(function: Callable) -> Callable:
        try:
            return numba.njit(function, cache=True, **options)
        except RuntimeError:  # No folder can be written to.
            return numba.njit(function, **options)

    return decorate


# Below, images (N, H, W, C) and points (36, tiles, C) are flat. Unsigned indices spare the check for negative ones,
# without which loops are not vectorized.
_index = np.uintp


@_compiled()
def _transform_six(source, start, step, result, at, result_step, num):
    """Inputs' transform of six rows of numbers."""
    for i in range(num):
        d0 = source[_index(start + i)]
        d1 = source[_index(start + step + i)]
        d2 = source[_index(start + 2 * step + i)]
        d3 = source[_index(start + 3 * step + i)]
        d4 = source[_index(start + 4 * step + i)]
        d5 = source[_index(start + 5 * step + i)]
        even_p, odd_p = d4 - _Q2 * d2, _P * (d3 - _Q2 * d1)
        even_q, odd_q = d4 - _P2 * d2, _Q * (d3 - _P2 * d1)
        result[_index(at + i)] = _P2_Q2 * d0 - _P2_PLUS_Q2 * d2 + d4
        result[_index(at + result_step + i)] = even_p + odd_p
        result[_index(at + 2 * result_step + i)] = even_p - odd_p
        result[_index(at + 3 * result_step + i)] = even_q + odd_q
        result[_index(at + 4 * result_step + i)] = even_q - odd_q
        result[_index(at + 5 * result_step + i)] = _P2_Q2 * d1 - _P2_PLUS_Q2 * d3 + d5


@_compiled()
def _transform_four(source, start, step, result, at, result_step, num):
    """Gradients' transform of four rows of numbers to six."""
    for i in range(num):
        g0 = source[_index(start + i)]
        g1 = source[_index(start + step + i)]
        g2 = source[_index(start + 2 * step + i)]
        g3 = source[_index(start + 3 * step + i)]
        even_p, odd_p = g0 + _P2 * g2, _P * g1 + _P3 * g3
        even_q, odd_q = g0 + _Q2 * g2, _Q * g1 + _Q3 * g3
        result[_index(at + i)] = g0
        result[_index(at + result_step + i)] = even_p + odd_p
        result[_index(at + 2 * result_step + i)] = even_p - odd_p
        result[_index(at + 3 * result_step + i)] = even_q + odd_q
        result[_index(at + 4 * result_step + i)] = even_q - odd_q
        result[_index(at + 5 * result_step + i)] = g3


@_compiled()
def _combine_six(source, start, step, result, at, result_step, bias):
    """Outputs' transform of six rows of numbers to four, and the bias."""
    for i in range(bias.shape[0]):
        m1 = source[_index(start + step + i)]
        m2 = source[_index(start + 2 * step + i)]
        m3 = source[_index(start + 3 * step + i)]
        m4 = source[_index(start + 4 * step + i)]
        even_p, odd_p = m1 + m2, m1 - m2
        even_q, odd_q = m3 + m4, m3 - m4
        result[_index(at + i)] = source[_index(start + i)] + even_p + even_q + bias[i]
        result[_index(at + result_step + i)] = _P * odd_p + _Q * odd_q + bias[i]
        result[_index(at + 2 * result_step + i)] = _P2 * even_p + _Q2 * even_q + bias[i]
        result[_index(at + 3 * result_step + i)] = (
            _P3 * odd_p + _Q3 * odd_q + source[_index(start + 5 * step + i)] + bias[i]
        )


@_compiled()
def _cut_tile(source, image, top, left, height, width, channels, tile, side):
    """Copy a tile that reaches beyond its image, with zeros there."""
    tile[:] = 0
    columns = slice(max(left, 0), min(left + side, width))
    num = (columns.stop - columns.start) * channels
    for y in range(max(-top, 0), min(side, height - top)):
        start = ((image * height + top + y) * width + columns.start) * channels
        at = (y * side + columns.start - left) * channels
        for i in range(num):
            tile[_index(at + i)] = source[_index(start + i)]


@_compiled(inline='always')
def _transform(source, start, step, result, at, result_step, num, side):
    if side == 6:
        _transform_six(source, start, step, result, at, result_step, num)
    else:
        _transform_four(source, start, step, result, at, result_step, num)


@_compiled(inline='always')
def _points(part, parts, images, first, side, points):
    """Points of tiles of 6x6 inputs, which begin a pixel before their results, or of 4x4 gradients."""
    _, height, width, channels = images.shape
    rows, columns = (height + 3) // 4, (width + 3) // 4
    count = points.shape[1]
    border = (side - 4) // 2
    images, points = images.reshape(-1), points.reshape(-1)
    row = side * channels
    tile = np.empty(side * row, np.float32)
    half = np.empty(6 * row, np.float32)
    for i in range(count * part // parts, count * (part + 1) // parts):
        image, place = divmod(first + i, rows * columns)
        top, left = 4 * (place // columns) - border, 4 * (place % columns) - border
        if top >= 0 and left >= 0 and top + side <= height and left + side <= width:
            start = ((image * height + top) * width + left) * channels
            _transform(images, start, width * channels, half, 0, row, row, side)
        else:
            _cut_tile(images, image, top, left, height, width, channels, tile, side)
            _transform(tile, 0, row, half, 0, row, row, side)
        for y in range(6):
            at = (6 * y * count + i) * channels
            _transform(half, y * row, channels, points, at, count * channels, channels, side)


# The side of tiles is a constant in each: as an argument it makes loops slower by a fifth.
@_compiled()
def _inputs(part, parts, x, first, points):
    _points(part, parts, x, first, 6, points)


@_compiled()
def _gradients(part, parts, grad, first, points):
    _points(part, parts, grad, first, 4, points)


@_compiled()
def _outputs(part, parts, points, first, out, bias):
    _, height, width, channels = out.shape
    rows, columns = (height + 3) // 4, (width + 3) // 4
    count = points.shape[1]
    points, out = points.reshape(-1), out.reshape(-1)
    half = np.empty(24 * channels, np.float32)
    row = np.empty(4 * channels, np.float32)
    no_bias = np.zeros(channels, np.float32)
    for i in range(count * part // parts, count * (part + 1) // parts):
        image, place = divmod(first + i, rows * columns)
        top, left = 4 * (place // columns), 4 * (place % columns)
        for x in range(6):
            start = (x * count + i) * channels
            _combine_six(points, start, 6 * count * channels, half, x * channels, 6 * channels, no_bias)
        for y in range(min(4, height - top)):
            at = ((image * height + top + y) * width + left) * channels
            if left + 4 <= width:
                _combine_six(half, 6 * y * channels, channels, out, at, channels, bias)
            else:
                _combine_six(half, 6 * y * channels, channels, row, 0, channels, bias)
                for j in range((width - left) * channels):
                    out[_index(at + j)] = row[j]


@_compiled(parallel=True)
def _inputs_in_parallel(parts, x, first, points):
    for part in prange(parts):
        _inputs(part, parts, x, first, points)


@_compiled(parallel=True)
def _gradients_in_parallel(parts, grad, first, points):
    for part in prange(parts):
        _gradients(part, parts, grad, first, points)


@_compiled(parallel=True)
def _outputs_in_parallel(parts, points, first, out, bias):
    for part in prange(parts):
        _outputs(part, parts, points, first, out, bias)
