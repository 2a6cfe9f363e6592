import torch
from mmdet.registry import MODELS
from mmdet.utils import OptMultiConfig
from mmengine.model import BaseModule
from torch import Tensor, nn


@MODELS.register_module()
class SpatialAttention(BaseModule):
    r"""Spatial attention module of CenterMask.

    .. math::
        A(X) = \sigma(F_{k \times k}([\mathrm{mean}_c X; \max_c X])), \qquad
        X_{sag} = A(X) \otimes X

    Source: `CenterMask <https://arxiv.org/abs/1911.06667>`_, Section 3.3.

    The module has no learnt size but that of its kernel, so it fits between any two layers, also as an mmcv plugin
    of a backbone::

        backbone=dict(
            type='ResNet',
            plugins=[dict(cfg=dict(type='SpatialAttention'),
                          stages=(False, True, True, True), position='after_conv3')])

    The attention map is the output of the submodule ``gate``: a forward hook on it reads the map of every
    forward that happens anyway. ``module(x, return_attention=True)`` returns it as well.

    Args:
        in_channels: Ignored. mmcv passes it to every plugin layer.
        kernel_size: Side of the square kernel, 3 or 7.
        init_cfg: Initialization config. Defaults to He-normal.

    Raises:
        ValueError: If ``kernel_size`` is neither 3 nor 7.
    """

    _abbr_ = 'spatial_attention'

    def __init__(
        self,
        in_channels: int | None = None,
        kernel_size: int = 3,
        init_cfg: OptMultiConfig = dict(type='Kaiming', layer='Conv2d'),
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        if kernel_size not in (3, 7):
            raise ValueError(f'SpatialAttention: kernel_size must be 3 or 7, got {kernel_size}')
        self.conv = nn.Conv2d(2, 1, kernel_size, padding=kernel_size // 2, bias=False)
        self.gate = nn.Sigmoid()

    def forward(self, x: Tensor, return_attention: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Weigh every position of features (N, C, H, W) by its attention; return the map (N, 1, H, W) too if asked."""
        pooled = torch.cat([x.mean(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)], dim=1)
        attention = self.gate(self.conv(pooled))
        return (x * attention, attention) if return_attention else x * attention
