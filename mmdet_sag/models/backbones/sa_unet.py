import torch
from mmdet.registry import MODELS
from mmdet.utils import OptMultiConfig
from mmengine.model import BaseModule
from torch import Tensor, nn
from torchvision.ops import DropBlock2d

from ...errors import InputError
from ..layers import SpatialAttention


@MODELS.register_module()
class SAUNet(BaseModule):
    """U-Net with DropBlock in its convolutional blocks and spatial attention in the middle of its bottleneck.

    Source: `SA-UNet <https://arxiv.org/abs/2004.03696>`_. As a backbone of MMSegmentation, where configs name it
    ``mmdet.SAUNet``, it ends before the last 1x1 convolution, which is that of the decode head. With a head of one
    output channel, the defaults have the 537,299 trainable parameters of the paper's network.

    Args:
        in_channels: Channels of the images.
        base_channels: Channels at full resolution; each level below has twice as many.
        num_stages: Number of levels, that of the bottleneck included.
        drop_prob: Share of the elements that DropBlock drops in training: 0.18 for DRIVE, 0.13 for CHASE_DB1; 0: none.
        block_size: Side of the square regions that it drops, odd.
        attention: Whether there is attention in the bottleneck. Without it, the network is the paper's baseline.
        init_cfg: Initialization config. Defaults to He-normal.
    """

    def __init__(
        self,
        in_channels: int = 3,
        base_channels: int = 16,
        num_stages: int = 4,
        drop_prob: float = 0.18,
        block_size: int = 7,
        attention: bool = True,
        init_cfg: OptMultiConfig = dict(type='Kaiming', layer=['Conv2d', 'ConvTranspose2d']),
    ) -> None:
        super().__init__(init_cfg)
        self.block_size = block_size if drop_prob else 0

        def conv(inputs: int, outputs: int) -> nn.Sequential:
            layers = [nn.Conv2d(inputs, outputs, 3, padding=1), DropBlock2d(drop_prob, block_size)]
            return nn.Sequential(*layers, nn.BatchNorm2d(outputs), nn.ReLU())

        *widths, bottom = (base_channels * 2**stage for stage in range(num_stages))
        inputs = [in_channels, *widths]
        self.encoder = nn.ModuleList(nn.Sequential(conv(i, o), conv(o, o)) for i, o in zip(inputs, widths))
        gate = [SpatialAttention(kernel_size=7)] if attention else []
        self.bottleneck = nn.Sequential(conv(inputs[-1], bottom), *gate, conv(bottom, bottom))
        self.upsample = nn.ModuleList(
            nn.ConvTranspose2d(2 * width, width, 3, stride=2, padding=1, output_padding=1) for width in widths
        )
        self.decoder = nn.ModuleList(nn.Sequential(conv(2 * width, width), conv(width, width)) for width in widths)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """Compute the features (N, base_channels, H, W) of images (N, in_channels, H, W).

        Raises:
            InputError: H or W is no multiple of the bottleneck's stride, or too small for DropBlock.
        """
        stride = 2 ** len(self.encoder)
        if x.shape[-2] % stride or x.shape[-1] % stride:
            raise InputError(
                f'model.backbone: SAUNet got images of {x.shape[-2]}x{x.shape[-1]} pixels, and needs multiples of '
                f'{stride}: set model.data_preprocessor.size_divisor={stride} and '
                f'model.data_preprocessor.test_cfg.size_divisor={stride}'
            )
        smallest = min(x.shape[-2:]) // stride
        if self.training and smallest < self.block_size:
            raise InputError(
                f'model.backbone: DropBlock drops blocks of {self.block_size}x{self.block_size} features, and the '
                f'bottleneck has {x.shape[-2] // stride}x{x.shape[-1] // stride}: train on images of at least '
                f'{self.block_size * stride} pixels a side, or set model.backbone.drop_prob=0'
            )
        skips = []
        for block in self.encoder:
            skips.append(block(x))
            x = nn.functional.max_pool2d(skips[-1], 2)
        x = self.bottleneck(x)
        for skip, upsample, block in zip(skips[::-1], reversed(self.upsample), reversed(self.decoder)):
            x = block(torch.cat([upsample(x), skip], dim=1))
        return (x,)
