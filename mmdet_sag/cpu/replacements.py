"""What stands in for methods of modules while a detector is prepared."""

from typing import Any

import torch
import torch.nn.functional as F
from mmcv.ops import RoIAlign
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from ..models.roi_heads.roi_extractors.embedding_bag_roi_align import embedding_bag_roi_align


class Replacement:
    """Stands in for a ``method`` of a module; the module keeps its class, parameters and state."""

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
    """A module whose inputs and, unless None, outputs are converted to memory formats.

    A ``substitute``, if there is one, computes the results instead.
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


class FrozenBatchNorm(Replacement):
    """A batch norm whose statistics and weights do not change, as a multiply-add.

    PyTorch's own keeps its input for the gradient, also where no weight has one: half of what ResNet-50 keeps.
    Results are the same, gradients differ by rounding only. While the norm learns, it is the module's own forward.
    """

    def __call__(self, x: Tensor) -> Tensor:
        """Normalise features (N, C, ...)."""
        norm = self.module
        learns = norm.training or norm.running_var is None or any(p.requires_grad for p in norm.parameters())
        return self.original(x) if learns else _MultiplyAdd.apply(x, norm)


class _MultiplyAdd(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, norm: _BatchNorm) -> Tensor:
        scale = (norm.running_var.float() + norm.eps).rsqrt()
        scale = scale if norm.weight is None else scale * norm.weight
        ctx.save_for_backward(scale.view(-1, *(1,) * (x.dim() - 2)))
        return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (scale,) = ctx.saved_tensors
        # In float32 if the scale is, and rounded to the gradient's type, by one kernel.
        return torch.mul(grad, scale, out=torch.empty_like(grad)), None


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
