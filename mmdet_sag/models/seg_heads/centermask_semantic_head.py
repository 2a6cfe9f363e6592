from mmdet.models.seg_heads import PanopticFPNHead
from mmdet.registry import MODELS
from mmdet.utils import ConfigType
from mmengine.model import kaiming_init
from torch import Tensor, nn


@MODELS.register_module()
class CenterMaskSemanticHead(PanopticFPNHead):
    """Semantic branch of Panoptic FPN as Panoptic-CenterMask trains it; what it predicts is the same.

    Classes are the stuff classes in order, and last one class for all things. Further arguments are those of
    ``PanopticFPNHead``.

    Source: `Panoptic Feature Pyramid Networks <https://arxiv.org/abs/1901.02446>`_.

    Args:
        seg_rescale_factor: Size at which logits and target are compared, relative to the input: the logits are
            resized to it bilinearly, of the target every 1/factor-th pixel is taken. ``PanopticFPNHead`` has 1/4.
        logits_std: Standard deviation of the initial weights of the last conv, 0.01 in ``PanopticFPNHead``; None: that
            of He for the fan-out.
        loss_seg: Config of the loss. It is averaged over the pixels whose target is not ``ignore_index``.
    """

    def __init__(
        self,
        *args,
        seg_rescale_factor: float = 1.0,
        logits_std: float | None = None,
        loss_seg: ConfigType = dict(type='CrossEntropyLoss', ignore_index=255, avg_non_ignore=True, loss_weight=0.5),
        **kwargs,
    ) -> None:
        super().__init__(*args, loss_seg=loss_seg, **kwargs)
        self.seg_rescale_factor = seg_rescale_factor
        self.logits_std = logits_std

    def init_weights(self) -> None:
        """Initialize the weights."""
        super().init_weights()
        if self.logits_std is None:
            kaiming_init(self.conv_logits, mode='fan_out', nonlinearity='relu', distribution='normal')
        else:
            nn.init.normal_(self.conv_logits.weight, std=self.logits_std)

    def forward(self, x: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """Compute ``seg_preds``, logits (N, num_classes, H, W), in float32 whatever the weights are."""
        outputs = super().forward(x)
        return {**outputs, 'seg_preds': outputs['seg_preds'].float()}

    def predict(self, x: tuple[Tensor, ...], batch_img_metas: list[dict], rescale: bool = False) -> list[Tensor]:
        """Predict the class logits (num_classes, H, W) of each image, without its padding.

        With ``rescale``, they have the original image's size.
        """
        seg_preds = super().predict(x, batch_img_metas, rescale=rescale)
        if rescale:
            return seg_preds
        shapes = [img_meta['img_shape'] for img_meta in batch_img_metas]
        return [logits[:, :height, :width] for logits, (height, width) in zip(seg_preds, shapes)]
