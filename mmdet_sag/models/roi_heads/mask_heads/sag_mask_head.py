import numpy as np
import torch
import torch.nn.functional as F
from mmcv.cnn.bricks.wrappers import Conv2d
from mmdet.models.losses.cross_entropy_loss import mask_cross_entropy
from mmdet.models.roi_heads.mask_heads import FCNMaskHead, HTCMaskHead
from mmdet.models.task_modules import SamplingResult
from mmdet.registry import MODELS
from mmdet.utils import InstanceList
from mmengine.config import ConfigDict
from torch import Tensor, nn
from torch.nn.modules.utils import _pair

from ....errors import InputError
from ....structures.mask import RLEMasks, paste_masks_as_rle
from ...layers import SpatialAttention

# Options of mask heads that an FCN head does not stand in for, and what to do where they are met.
_OTHER_HEADS = {
    'with_conv_res': "HTCMaskHead has one: write type='SAGHTCMaskHead'",
    'conv_to_res': "SCNetMaskHead has one: write type='SAGSCNetMaskHead'",
    **dict.fromkeys(
        ('num_fcs', 'fc_out_channels', 'downsample_factor'),
        "PointRend's CoarseMaskHead has one, which is no FCN head: keep it, it has no convs to put attention behind",
    ),
    'dynamic_conv_cfg': "QueryInst's DynamicMaskHead has one, which is no FCN head: keep it",
}


@MODELS.register_module()
class SAGMaskHead(FCNMaskHead):
    """Spatial Attention-Guided mask head (SAG-Mask) of CenterMask.

    An :class:`FCNMaskHead` whose convs end in a spatial attention module, so it works wherever that head does:
    RoI features -> ``num_convs`` convs with ReLU -> spatial attention -> upsampling -> one logit map per class.
    Subclasses of that head are combined with it by inheritance, as :class:`SAGHTCMaskHead` is.
    Source: `CenterMask <https://arxiv.org/abs/1911.06667>`_, Section 3.3.

    ``train_cfg.rcnn`` may hold ``clip_mask_targets`` (default True, as in MMDetection): whether an RoI is clipped to
    the image before its target is cropped. CenterMask's configs set it to False, like the reference.

    ``test_cfg.rcnn`` may hold ``rle_masks`` (default False): whether masks are :class:`RLEMasks`, the same bit by bit,
    which takes a fraction of the time and memory, instead of a tensor of bitmaps. CenterMask's configs set it to True.
    Soft masks, of a ``mask_thr_binary`` below 0, stay bitmaps.

    ``test_cfg.rcnn`` may hold ``inclusive_boxes`` (default False): whether boxes end at their last pixel, and masks are
    pasted into whole pixels, as in CenterMask's first implementation.

    Args:
        *args: As in ``FCNMaskHead``.
        attention_kernel_size: Kernel size of the spatial attention, 3 or 7.
        **kwargs: As in ``FCNMaskHead``.

    Raises:
        InputError: An option belongs to a mask head that is none, or needs a subclass of this one.
    """

    def __init__(self, *args, attention_kernel_size: int = 3, **kwargs) -> None:
        if type(self) is SAGMaskHead:
            for option in kwargs.keys() & _OTHER_HEADS.keys():
                raise InputError(f'mask_head: SAGMaskHead has no option {option}; {_OTHER_HEADS[option]}')
        super().__init__(*args, **kwargs)
        # As the last of the convs, it is part of every path that runs them.
        self.convs.append(SpatialAttention(kernel_size=attention_kernel_size))

    @property
    def spatial_attention(self) -> SpatialAttention:
        """The head's attention module."""
        return self.convs[-1]

    def forward(self, x: Tensor, *args, **kwargs) -> Tensor | list[Tensor]:
        """Predict masks.

        Args:
            x: RoI features of shape (n, in_channels, h, w).
            *args: What the head that this one is combined with takes.
            **kwargs: What the head that this one is combined with takes.

        Returns:
            Logits of shape (n, num_classes, 2h, 2w), or what the head that this one is combined with returns.

        Raises:
            InputError: The RoI head gives more than features, as that of HTC or QueryInst does.
        """
        if (args or kwargs) and not isinstance(self, HTCMaskHead):
            raise InputError(
                f'mask_head: this RoI head gives {type(self).__name__} more than RoI features; in HTC and DetectoRS-HTC'
                " write type='SAGHTCMaskHead', in QueryInst keep DynamicMaskHead, which is no FCN head"
            )
        return super().forward(x, *args, **kwargs)

    def forward_of_class(self, x: Tensor, labels: Tensor) -> Tensor:
        """Predict the masks of one class per RoI, without the logits of all others.

        Args:
            x: RoI features of shape (n, in_channels, h, w).
            labels: The RoIs' classes, shape (n, ).

        Returns:
            Logits of shape (n, 1, 2h, 2w), those of :meth:`forward` up to rounding.
        """
        # A head that is combined with another kind has more than an FCN head's layers.
        fcn = type(self).forward is SAGMaskHead.forward and super().forward.__func__ is FCNMaskHead.forward
        linear = type(self.conv_logits) in (nn.Conv2d, Conv2d) and self.conv_logits.kernel_size == (1, 1)
        if self.class_agnostic or not (fcn and linear):
            logits = self(x)
            return logits if self.class_agnostic else logits[torch.arange(len(labels)), labels][:, None]
        for conv in self.convs:
            x = conv(x)
        if self.upsample is not None:
            x = self.upsample(x)
            if self.upsample_method == 'deconv':
                x = self.relu(x)
        weight, bias = self.conv_logits.weight[labels].flatten(1), self.conv_logits.bias[labels]
        logits = torch.bmm(weight[:, None].to(x.dtype), x.flatten(2)) + bias[:, None, None]
        return logits.unflatten(2, x.shape[2:])

    def predict_by_feat(
        self,
        mask_preds: tuple[Tensor, ...],
        results_list: InstanceList,
        batch_img_metas: list[dict],
        rcnn_test_cfg: ConfigDict,
        **kwargs,
    ) -> InstanceList:
        """Add masks to detections.

        Arguments and results are those of ``FCNMaskHead``, but for ``rle_masks``, and but that ``mask_preds`` may be
        those of :meth:`forward_of_class`.
        """
        results_list = super().predict_by_feat(mask_preds, results_list, batch_img_metas, rcnn_test_cfg, **kwargs)
        return encode_empty_masks(results_list, rcnn_test_cfg)

    def _predict_by_feat_single(
        self,
        mask_preds: Tensor,
        bboxes: Tensor,
        labels: Tensor,
        img_meta: dict,
        rcnn_test_cfg: ConfigDict,
        rescale: bool = False,
        activate_map: bool = False,
    ) -> Tensor | RLEMasks:
        if mask_preds.shape[1] == 1:
            labels = torch.zeros_like(labels)
        if rcnn_test_cfg.get('inclusive_boxes', False):
            if rescale:
                # In place, as in the method that this one replaces.
                bboxes /= bboxes.new_tensor(img_meta['scale_factor']).repeat(2)
            img_meta = dict(ori_shape=img_meta['ori_shape' if rescale else 'img_shape'], scale_factor=(1.0, 1.0))
            rescale = False
            mask_preds, bboxes = _ring_with_zeros(mask_preds, 0.0 if activate_map else -float('inf'), bboxes)
        if not gives_rle_masks(rcnn_test_cfg):
            return super()._predict_by_feat_single(
                mask_preds, bboxes, labels, img_meta, rcnn_test_cfg, rescale=rescale, activate_map=activate_map
            )
        height, width = img_meta['ori_shape'][:2]
        scale_factor = bboxes.new_tensor(img_meta['scale_factor'])
        if rescale:
            # In place, as FCNMaskHead does: these boxes are the results'.
            bboxes /= scale_factor.repeat(2)
        else:
            width_scale, height_scale = scale_factor.tolist()
            height, width = int(np.round(height * height_scale)), int(np.round(width * width_scale))
        mask_preds = torch.as_tensor(mask_preds, device=bboxes.device)
        index = torch.arange(len(labels), device=labels.device)
        mask_preds = mask_preds[index, labels]
        probs = mask_preds if activate_map else mask_preds.sigmoid()
        return paste_masks_as_rle(probs, bboxes, height, width, rcnn_test_cfg.mask_thr_binary)

    def loss_and_target(
        self,
        mask_preds: Tensor,
        sampling_results: list[SamplingResult],
        batch_gt_instances: InstanceList,
        rcnn_train_cfg: ConfigDict,
    ) -> dict:
        """Compute the mask loss and its targets.

        Ground truth may have ``mask_weights``, one per object, as pseudo-labels have: the pixels of each of its RoIs
        are weighted by it, and the sum is still divided by the number of all pixels, also those of weight 0.
        Arguments and results are those of ``FCNMaskHead``.

        Raises:
            InputError: There are weights, and the loss is no cross-entropy of masks.
        """
        if len(mask_preds) == 0 or not all('mask_weights' in gt_instances for gt_instances in batch_gt_instances):
            return super().loss_and_target(mask_preds, sampling_results, batch_gt_instances, rcnn_train_cfg)
        if not getattr(self.loss_mask, 'use_mask', False):
            raise InputError(
                f'mask_head.loss_mask: {type(self.loss_mask).__name__} takes no weights of masks, which pseudo-labels '
                "have: set it to dict(type='CrossEntropyLoss', use_mask=True)"
            )
        mask_targets = self.get_targets(sampling_results, batch_gt_instances, rcnn_train_cfg)
        labels = torch.cat([result.pos_gt_labels for result in sampling_results])
        weights = torch.cat(
            [
                gt_instances.mask_weights[result.pos_assigned_gt_inds]
                for result, gt_instances in zip(sampling_results, batch_gt_instances)
            ]
        )
        loss_mask = mask_cross_entropy(
            mask_preds,
            mask_targets,
            torch.zeros_like(labels) if self.class_agnostic else labels,
            class_weight=weights[:, None, None],
        )
        return dict(loss_mask=dict(loss_mask=self.loss_mask.loss_weight * loss_mask), mask_targets=mask_targets)

    def get_targets(
        self, sampling_results: list[SamplingResult], batch_gt_instances: InstanceList, rcnn_train_cfg: ConfigDict
    ) -> Tensor:
        """Crop the ground-truth masks to the positive RoIs.

        Args:
            sampling_results: Sampling result of each image.
            batch_gt_instances: Ground truth of each image, with ``masks``.
            rcnn_train_cfg: Config with ``mask_size`` and maybe ``clip_mask_targets``.

        Returns:
            Binary targets of shape (num_pos, mask_size, mask_size), float32.
        """
        if rcnn_train_cfg.get('clip_mask_targets', True):
            return super().get_targets(sampling_results, batch_gt_instances, rcnn_train_cfg)
        targets = []
        for result, gt_instances in zip(sampling_results, batch_gt_instances):
            rois = result.pos_priors
            mask_size = _pair(rcnn_train_cfg.mask_size)
            if len(rois) == 0:
                targets.append(rois.new_zeros((0, *mask_size)))
                continue
            cropped = gt_instances.masks.crop_and_resize(
                rois.cpu().numpy(), mask_size, device=rois.device, inds=result.pos_assigned_gt_inds.cpu().numpy()
            )
            targets.append(torch.from_numpy(cropped.to_ndarray()).to(rois))
        return torch.cat(targets)


def gives_rle_masks(rcnn_test_cfg: ConfigDict) -> bool:
    """Whether the test config of a RoI head asks for :class:`RLEMasks`."""
    return rcnn_test_cfg.get('rle_masks', False) and rcnn_test_cfg.mask_thr_binary >= 0


def encode_empty_masks(results_list: InstanceList, rcnn_test_cfg: ConfigDict) -> InstanceList:
    """Give the images without detections, which have a tensor (0, H, W), the type of masks that the others have."""
    if gives_rle_masks(rcnn_test_cfg):
        for results in results_list:
            if isinstance(results.masks, Tensor):
                results.masks = RLEMasks([], *results.masks.shape[1:])
    return results_list


def _ring_with_zeros(mask_preds: Tensor, zero: float, bboxes: Tensor) -> tuple[Tensor, Tensor]:
    """Surround masks by a ring of ``zero`` and enlarge their boxes alike, to the whole pixels that they touch.

    Sampled at the centres of these pixels, the masks are what resizing each of them to its box gives.
    """
    height, width = mask_preds.shape[-2:]
    scale = bboxes.new_tensor([(width + 2) / width, (height + 2) / height])
    half_size = (bboxes[:, 2:] - bboxes[:, :2]) * 0.5 * scale
    center = (bboxes[:, 2:] + bboxes[:, :2]) * 0.5
    first, last = (center - half_size).trunc(), (center + half_size).trunc()
    return F.pad(mask_preds, (1, 1, 1, 1), value=zero), torch.cat([first, last + 1], dim=1)
