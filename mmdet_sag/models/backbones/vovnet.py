from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from mmcv.cnn import ConvModule, DepthwiseSeparableConvModule
from mmdet.models.layers import ChannelAttention
from mmdet.registry import MODELS
from mmdet.utils import ConfigType, OptConfigType, OptMultiConfig
from mmengine.model import BaseModule, Sequential, initialize
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from ..model_config import is_pretrained


class VoVNetArch(NamedTuple):
    """One row of the table of VoVNets: channels of the stem's convs, then per stage 2-5."""

    stem_channels: tuple[int, int, int]
    conv_channels: tuple[int, int, int, int]
    out_channels: tuple[int, int, int, int]
    num_convs: int
    num_blocks: tuple[int, int, int, int]
    depthwise: bool = False


SLIM: dict[str, Any] = dict(conv_channels=(64, 80, 96, 112), out_channels=(112, 256, 384, 512))
FULL: dict[str, Any] = dict(conv_channels=(128, 160, 192, 224), out_channels=(256, 512, 768, 1024))


class OSABlock(BaseModule):
    """One-Shot Aggregation block with residual connection and effective squeeze-excitation.

    The ``num_convs`` 3x3 convs run in sequence; the block's input and all their outputs are concatenated once,
    projected by a 1x1 conv and weighed per channel. Where depthwise separable convs change the number of channels, the
    input is reduced first. Source: `VoVNet <https://arxiv.org/abs/1904.09730>`_ Section 3 and `CenterMask
    <https://arxiv.org/abs/1911.06667>`_ Section 3.4 (identity mapping, eSE).
    """

    def __init__(
        self,
        in_channels: int,
        conv_channels: int,
        out_channels: int,
        num_convs: int,
        identity: bool = False,
        depthwise: bool = False,
        with_cp: bool = False,
        conv_cfg: OptConfigType = None,
        norm_cfg: ConfigType = dict(type='BN'),
    ) -> None:
        super().__init__()
        self.identity = identity
        self.with_cp = with_cp
        self.reduction = None
        channels = in_channels
        if depthwise and in_channels != conv_channels:
            self.reduction = ConvModule(in_channels, conv_channels, 1, norm_cfg=norm_cfg)
            channels = conv_channels
        self.convs = nn.ModuleList()
        for _ in range(num_convs):
            self.convs.append(_conv3x3(channels, conv_channels, 1, depthwise, conv_cfg, norm_cfg))
            channels = conv_channels
        self.concat = ConvModule(in_channels + num_convs * conv_channels, out_channels, 1, norm_cfg=norm_cfg)
        # mmdet's channel attention is eSE: one 1x1 conv with bias and a hard sigmoid.
        self.ese = ChannelAttention(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map features (N, in_channels, H, W) to (N, out_channels, H, W)."""
        if self.with_cp and x.requires_grad:
            return checkpoint(self._forward, x, use_reentrant=False)
        return self._forward(x)

    def _forward(self, x: Tensor) -> Tensor:
        outs = [x]
        out = x if self.reduction is None else self.reduction(x)
        for conv in self.convs:
            out = conv(out)
            outs.append(out)
        out = self.ese(self.project(outs))
        return out + x if self.identity else out

    def project(self, feats: list[Tensor]) -> Tensor:
        """Project the concatenation of features, each (N, C, H, W)."""
        return self.concat(torch.cat(feats, dim=1))


@MODELS.register_module()
class VoVNet(BaseModule):
    """VoVNetV2, the backbone of CenterMask.

    Source: `CenterMask <https://arxiv.org/abs/1911.06667>`_ Section 3.4 and
    `VoVNet <https://arxiv.org/abs/1904.09730>`_. The variants are the rows of ``arch_settings``.

    Args:
        arch: Name of a row of ``arch_settings``, e.g. ``'V-39'``.
        out_indices: Stages to output: 0, 1, 2, 3 for strides 4, 8, 16, 32. Later stages are not built.
        frozen_stages: Number of stages not to train: -1 none, 0 the stem, n the stem and n stages.
        norm_cfg: Config of the norm layers. ``requires_grad=False`` freezes their weights.
        norm_eval: Whether norm layers keep their statistics in training.
        dcn: Config of the deformable conv for the 3x3 convs of the OSA blocks, e.g.
            ``dict(type='DCNv2', deform_groups=1)``.
        stage_with_dcn: Which stages use ``dcn``.
        with_cp: Whether to trade compute for memory by checkpointing each block.
        in_channels: Channels of the images. Weights of another number are folded when they are loaded, so that a grey
            image has the features that it has as three equal channels.
        init_cfg: Initialization config.

    Raises:
        ValueError: If ``arch`` names no row, or ``dcn`` is given for a depthwise variant.
    """

    arch_settings = {
        'V-19-slim-dw': VoVNetArch((64, 64, 64), **SLIM, num_convs=3, num_blocks=(1, 1, 1, 1), depthwise=True),
        'V-19-dw': VoVNetArch((64, 64, 64), **FULL, num_convs=3, num_blocks=(1, 1, 1, 1), depthwise=True),
        'V-19-slim': VoVNetArch((64, 64, 128), **SLIM, num_convs=3, num_blocks=(1, 1, 1, 1)),
        'V-19': VoVNetArch((64, 64, 128), **FULL, num_convs=3, num_blocks=(1, 1, 1, 1)),
        'V-39': VoVNetArch((64, 64, 128), **FULL, num_convs=5, num_blocks=(1, 1, 2, 2)),
        'V-57': VoVNetArch((64, 64, 128), **FULL, num_convs=5, num_blocks=(1, 1, 4, 3)),
        'V-99': VoVNetArch((64, 64, 128), **FULL, num_convs=5, num_blocks=(1, 3, 9, 3)),
    }

    def __init__(
        self,
        arch: str,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        norm_cfg: ConfigType = dict(type='BN', requires_grad=True),
        norm_eval: bool = False,
        dcn: OptConfigType = None,
        stage_with_dcn: Sequence[bool] = (False, True, True, True),
        with_cp: bool = False,
        in_channels: int = 3,
        init_cfg: OptMultiConfig = [
            dict(type='Kaiming', layer='Conv2d'),
            dict(type='Constant', val=1, layer=['_BatchNorm', 'GroupNorm']),
        ],
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        if arch not in self.arch_settings:
            raise ValueError(f'VoVNet: unknown arch {arch!r}, choose from {", ".join(self.arch_settings)}')
        settings = self.arch_settings[arch]
        if dcn is not None and settings.depthwise:
            raise ValueError(f'VoVNet: {arch} has depthwise convs, which dcn cannot replace; choose another arch')
        self.out_indices = tuple(out_indices)
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval

        stem = []
        channels = in_channels
        for i, (stem_channels, stride) in enumerate(zip(settings.stem_channels, (2, 1, 2))):
            depthwise = settings.depthwise and i > 0
            stem.append(_conv3x3(channels, stem_channels, stride, depthwise, None, norm_cfg))
            channels = stem_channels
        self.stem = Sequential(*stem)

        self.stages = nn.ModuleList()
        # A stage that nothing reads would have parameters without a gradient, which DDP refuses.
        for i in range(max(self.out_indices) + 1):
            blocks: list[nn.Module] = [] if i == 0 else [nn.MaxPool2d(3, stride=2, ceil_mode=True)]
            for j in range(settings.num_blocks[i]):
                blocks.append(
                    OSABlock(
                        channels,
                        settings.conv_channels[i],
                        settings.out_channels[i],
                        settings.num_convs,
                        identity=j > 0,
                        depthwise=settings.depthwise,
                        with_cp=with_cp,
                        conv_cfg=dcn if stage_with_dcn[i] else None,
                        norm_cfg=norm_cfg,
                    )
                )
                channels = settings.out_channels[i]
            self.stages.append(Sequential(*blocks))
        self._freeze_stages()

    def init_weights(self) -> None:
        """Initialize the weights; offsets of deformable convs that no pretrained weights hold start at zero."""
        super().init_weights()
        offsets = [module.conv_offset for module in self.modules() if hasattr(module, 'conv_offset')]
        for conv in offsets:
            nn.init.zeros_(conv.weight)
            nn.init.zeros_(conv.bias)
        init_cfgs = [self.init_cfg] if isinstance(self.init_cfg, dict) else self.init_cfg or []
        pretrained_cfgs = [cfg for cfg in init_cfgs if is_pretrained(cfg)]
        if offsets and pretrained_cfgs:
            # MMEngine loaded them before they could be set to zero.
            initialize(self, pretrained_cfgs)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute the features (N, C, ceil(H / stride), ceil(W / stride)) of the stages in ``out_indices``."""
        x = self.stem(x)
        outs = []
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if i in self.out_indices:
                outs.append(x)
        return tuple(outs)

    def train(self, mode: bool = True) -> 'VoVNet':
        """Switch the mode, keeping frozen stages and, with ``norm_eval``, norm layers in evaluation mode."""
        super().train(mode)
        self._freeze_stages()
        if self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: Any) -> None:
        key = f'{prefix}stem.0.conv.weight'
        weight, (_, channels, *kernel) = state_dict.get(key), self.stem[0].conv.weight.shape
        if weight is not None and weight.dim() == 4 and weight.shape[1] != channels:
            folded = weight.mean(dim=1, keepdim=True) * (weight.shape[1] / channels)
            state_dict[key] = folded.expand(-1, channels, *kernel)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _freeze_stages(self) -> None:
        if self.frozen_stages < 0:
            return
        for stage in [self.stem, *self.stages[: self.frozen_stages]]:
            stage.eval()
            stage.requires_grad_(False)


def _conv3x3(
    in_channels: int, out_channels: int, stride: int, depthwise: bool, conv_cfg: ConfigType | None, norm_cfg: ConfigType
) -> nn.Module:
    options = dict(stride=stride, padding=1, norm_cfg=norm_cfg)
    if depthwise:
        return DepthwiseSeparableConvModule(
            in_channels, out_channels, 3, **options, dw_norm_cfg=None, dw_act_cfg=None, bias=False
        )
    return ConvModule(in_channels, out_channels, 3, **options, conv_cfg=conv_cfg)
