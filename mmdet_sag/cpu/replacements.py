"""What stands in for methods of modules while a detector is prepared."""

from typing import Any

import torch
import torch.nn.functional as F
from mmcv.ops import RoIAlign
from torch import Tensor, nn

# RoIs at a time: the indices of their pixels take memory in proportion to the largest of them.
_ROIS = 16


class Replacement:
    """Stands in for a method of a module; the module keeps its class, parameters and state.

    Args:
        module: The module.

    Attributes:
        method: Name of the method.
    """

    method = 'forward'

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def install(self) -> None:
        """Let the module use this instead of its own method."""
        setattr(self.module, self.method, self)

    def original(self, *args, **kwargs) -> Any:
        """Call the module's own method."""
        return getattr(type(self.module), self.method)(self.module, *args, **kwargs)


class FormatConversion(Replacement):
    """A module whose inputs and outputs are converted to memory formats.

    Args:
        module: The module.
        inputs: Memory format of its inputs.
        outputs: Memory format of its outputs; None: as the module returns them.
        substitute: A module that computes the results instead.
    """

    def __init__(
        self,
        module: nn.Module,
        inputs: torch.memory_format,
        outputs: torch.memory_format | None = None,
        substitute: nn.Module | None = None,
    ) -> None:
        super().__init__(module)
        self.inputs, self.outputs, self.substitute = inputs, outputs, substitute

    def __call__(self, *inputs: Any) -> Any:
        """Compute the results of tensors, or of tuples of tensors."""
        inputs = _converted(inputs, self.inputs)
        outputs = (self.original if self.substitute is None else self.substitute)(*inputs)
        return outputs if self.outputs is None else _converted(outputs, self.outputs)


class DirectProjection(Replacement):
    """The projection of an :class:`OSABlock`, without concatenating the features first.

    Copying the features of the finest stage takes as long as projecting them. With gradients, and where
    :func:`is_plain_cpu` does not hold, it is the block's own projection.
    """

    method = 'project'

    def __call__(self, feats: list[Tensor]) -> Tensor:
        """Project features, each (N, C, H, W)."""
        x, conv = feats[0], self.module.concat.conv
        if torch.is_grad_enabled() or not is_plain_cpu(x) or not is_channels_last(x):
            return self.original(feats)
        rows = [feat.permute(0, 2, 3, 1).flatten(0, 2) for feat in feats]
        weights = conv.weight.flatten(1).t().split([row.shape[1] for row in rows])
        total = rows[0] @ weights[0] if conv.bias is None else torch.addmm(conv.bias, rows[0], weights[0])
        for row, weight in zip(rows[1:], weights[1:]):
            total.addmm_(row, weight)
        total = total.unflatten(0, (x.shape[0], *x.shape[2:])).permute(0, 3, 1, 2)
        return self.module.concat.activate(self.module.concat.norm(total))


class EmbeddingBagRoIAlign(Replacement):
    """RoIAlign of a :class:`ScaleAdaptiveRoIExtractor` on channels-last features on a CPU, as an embedding bag.

    A bin's value is a weighted sum of pixels, whose channels lie side by side: an embedding bag. RoIAlign's own kernels
    want contiguous features and sum channel by channel, which takes up to ten times as long, and so do their gradients.
    Results and gradients of the features differ by rounding only.
    """

    method = 'roi_align'

    def __call__(self, layer: nn.Module, feat: Tensor, rois: Tensor) -> Tensor:
        """Pool the features (N, C, H, W) of a level in RoIs (n, 5), as the layer does."""
        averages = isinstance(layer, RoIAlign) and layer.pool_mode == 'avg'
        # Mixed precision is no obstacle: the extractor's features are float32.
        if averages and is_channels_last(feat) and feat.device.type == 'cpu':
            return embedding_bag_roi_align(layer, feat, rois)
        return self.original(layer, feat, rois)


def embedding_bag_roi_align(layer: RoIAlign, feat: Tensor, rois: Tensor) -> Tensor:
    """Run an averaging RoIAlign on channels-last features.

    Args:
        layer: The layer.
        feat: Features of a level, shape (N, C, H, W).
        rois: RoIs of shape (n, 5): image index, x1, y1, x2, y2 in pixels of the network's input.

    Returns:
        RoI features of shape (n, C, *output_size), channels last in memory.
    """
    # As in RoIAlign, which has no gradient of RoIs.
    rois = rois.detach()
    num, channels, height, width = feat.shape
    pixels = feat.permute(0, 2, 3, 1).reshape(num * height * width, channels)
    bins_y, bins_x = layer.output_size
    out = feat.new_empty(len(rois), bins_y, bins_x, channels)
    # RoIs of a size together, so that a large one does not make the bags of small ones large.
    by_size = (rois[:, 3:] - rois[:, 1:3]).amax(1).argsort()
    for chunk in by_size.split(_ROIS) if len(rois) else ():
        first = rois[chunk, 0].long() * (height * width)
        x, weight_x = _bins(rois[chunk, 1], rois[chunk, 3], bins_x, width, layer)
        y, weight_y = _bins(rois[chunk, 2], rois[chunk, 4], bins_y, height, layer)
        # (RoI, bin in y, bin in x, pixel in y, pixel in x)
        index = first.view(-1, 1, 1, 1, 1) + y[:, :, None, :, None] * width + x[:, None, :, None, :]
        weight = weight_y[:, :, None, :, None] * weight_x[:, None, :, None, :]
        index, weight = index.flatten(0, 2).flatten(1), weight.flatten(0, 2).flatten(1)
        bags = F.embedding_bag(index, pixels, mode='sum', per_sample_weights=weight)
        out[chunk] = bags.view(len(chunk), bins_y, bins_x, channels)
    return out.permute(0, 3, 1, 2)


def is_plain_cpu(x: Tensor) -> bool:
    """Whether features are float32 on a CPU, without mixed precision and outside of a compiler."""
    if x.device.type != 'cpu' or x.dtype != torch.float32:
        return False
    return not (torch.compiler.is_compiling() or _is_autocast_enabled())


def is_channels_last(x: Tensor) -> bool:
    """Whether features are in channels-last memory format, and not contiguous as well."""
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def _is_autocast_enabled() -> bool:
    try:
        return torch.is_autocast_enabled('cpu')
    except TypeError:  # PyTorch < 2.4
        return torch.is_autocast_cpu_enabled()


def _converted(feats: Any, memory_format: torch.memory_format) -> Any:
    if isinstance(feats, Tensor):
        return feats.contiguous(memory_format=memory_format)
    return tuple(_converted(feat, memory_format) for feat in feats)


def _bins(start: Tensor, end: Tensor, bins: int, length: int, layer: RoIAlign) -> tuple[Tensor, Tensor]:
    """Pixels along an axis that the bins of RoIs read, and their weights: two tensors (n, bins, pixels)."""
    start = start * layer.spatial_scale - 0.5 * layer.aligned
    size = end * layer.spatial_scale - 0.5 * layer.aligned - start
    if not layer.aligned:
        size = size.clamp(min=1)
    step = size / bins
    samples = torch.full_like(step, layer.sampling_ratio) if layer.sampling_ratio > 0 else step.ceil().clamp(min=0)
    # One, uncounted, where no RoI has any.
    sample = torch.arange(max(int(samples.max()), 1), device=start.device)
    spacing = step / samples.clamp(min=1)
    position = start.view(-1, 1, 1) + torch.arange(bins, device=start.device).view(-1, 1) * step.view(-1, 1, 1)
    position = position + (sample + 0.5) * spacing.view(-1, 1, 1)
    counts = (sample < samples.view(-1, 1, 1)) & (position >= -1) & (position <= length)
    share = counts / samples.clamp(min=1).view(-1, 1, 1)
    # A sample off the image by less than a pixel counts as one on its border.
    position = position.clamp(min=0, max=length - 1)
    first = torch.where(counts, position, length).floor().amin(-1, keepdim=True)
    last = torch.where(counts, position, 0).floor().amax(-1, keepdim=True) + 1
    reach = max(int((last - first).max()), 0) + 1
    pixel = first + torch.arange(reach, device=start.device)
    distance = (position[..., None] - pixel[:, :, None]).abs()
    weight = ((1 - distance).clamp(min=0) * share[..., None]).sum(2)
    return pixel.clamp(max=length - 1).long(), weight
