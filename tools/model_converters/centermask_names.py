"""Names of the parameters of CenterMask2, and of CenterMask's first implementation, in this package."""

import re
from collections.abc import Mapping

from torch import Tensor

# Blocks of each MobileNetV2 layer, in the order in which the reference numbers them all.
_MOBILENET_BLOCKS = [(layer, block) for layer, count in enumerate((1, 2, 3, 4, 3, 3, 1), 1) for block in range(count)]


def _vovnet_block(match: re.Match) -> str:
    stage, block = int(match[1]) - 2, int(match[2]) - 1
    # All stages except the first begin with a pooling layer, which takes the first index.
    return f'backbone.stages.{stage}.{block if stage == 0 else block + 1}.'


def _mobilenet_block(match: re.Match) -> str:
    layer, block = _MOBILENET_BLOCKS[int(match[1]) - 1]
    index = int(match[2])
    names = ('depthwise_conv', 'linear_conv') if layer == 1 else ('expand_conv', 'depthwise_conv', 'linear_conv')
    return f'backbone.layer{layer}.{block}.{names[index // 3]}.{("conv", "bn")[index % 3]}.'


def _semantic_block(match: re.Match) -> str:
    return f'semantic_head.conv_upsample_layers.{int(match[1]) - 2}.conv.{int(match[2]) // 2}.conv'


# From CenterMask2 to this package. Rules are applied in their order, each to the result of those before it.
_RULES = (
    # VoVNet
    (r'^backbone\.bottom_up\.stem\.stem_(\d)', lambda m: f'backbone.stem.{int(m[1]) - 1}'),
    (r'^backbone\.bottom_up\.stage\d\.OSA(\d)_(\d+)\.', _vovnet_block),
    (r'layers\.(\d)\.OSA\w+/', r'convs.\1/'),
    (r'concat\.OSA\w+/', r'concat/'),
    (r'conv_reduction\.OSA\w+/', r'reduction/'),
    (r'/dw_conv3x3', r'.depthwise_conv.conv'),
    (r'/pw_conv1x1', r'.pointwise_conv.conv'),
    (r'/pw_norm', r'.pointwise_conv.bn'),
    (r'/conv_offset', r'.conv.conv_offset'),
    (r'/conv', r'.conv'),
    (r'/norm', r'.bn'),
    # ResNet
    (r'^backbone\.bottom_up\.stem\.conv1\.norm', r'backbone.bn1'),
    (r'^backbone\.bottom_up\.stem\.conv1', r'backbone.conv1'),
    (r'^backbone\.bottom_up\.res(\d)\.', lambda m: f'backbone.layer{int(m[1]) - 1}.'),
    (r'\.shortcut\.norm', r'.downsample.1'),
    (r'\.shortcut', r'.downsample.0'),
    (r'^(backbone\.layer\d\.\d+\.)conv(\d)\.norm', r'\1bn\2'),
    # MobileNetV2
    (r'^backbone\.bottom_up\.features\.0\.0', r'backbone.conv1.conv'),
    (r'^backbone\.bottom_up\.features\.0\.1', r'backbone.conv1.bn'),
    (r'^backbone\.bottom_up\.features\.(\d+)\.conv\.(\d)\.', _mobilenet_block),
    # FPN
    (r'^backbone\.fpn_lateral(\d)', lambda m: f'neck.lateral_convs.{int(m[1]) - 3}.conv'),
    (r'^backbone\.fpn_output(\d)', lambda m: f'neck.fpn_convs.{int(m[1]) - 3}.conv'),
    (r'^backbone\.top_block\.p(\d)', lambda m: f'neck.fpn_convs.{int(m[1]) - 3}.conv'),
    # FCOS: a tower is conv, norm, ReLU, conv, ...
    (
        r'^proposal_generator\.fcos_head\.(cls|bbox)_tower\.(\d+)',
        lambda m: (
            f'bbox_head.{"cls" if m[1] == "cls" else "reg"}_convs.{int(m[2]) // 3}.{("conv", "gn")[int(m[2]) % 3]}'
        ),
    ),
    (r'^proposal_generator\.fcos_head\.cls_logits', r'bbox_head.conv_cls'),
    (r'^proposal_generator\.fcos_head\.bbox_pred', r'bbox_head.conv_reg'),
    (r'^proposal_generator\.fcos_head\.ctrness', r'bbox_head.conv_centerness'),
    (r'^proposal_generator\.fcos_head\.scales', r'bbox_head.scales'),
    # RoI branch
    (r'^roi_heads\.mask_head\.mask_fcn(\d)', lambda m: f'roi_head.mask_head.convs.{int(m[1]) - 1}.conv'),
    (r'^roi_heads\.mask_head\.deconv', r'roi_head.mask_head.upsample'),
    (r'^roi_heads\.mask_head\.predictor', r'roi_head.mask_head.conv_logits'),
    (r'^roi_heads\.maskiou_head\.maskiou_fcn(\d)', lambda m: f'roi_head.mask_iou_head.convs.{int(m[1]) - 1}'),
    (r'^roi_heads\.maskiou_head\.maskiou_fc(\d)', lambda m: f'roi_head.mask_iou_head.fcs.{int(m[1]) - 1}'),
    (r'^roi_heads\.maskiou_head\.maskiou\.', r'roi_head.mask_iou_head.fc_mask_iou.'),
    # Semantic branch: a level is conv with norm, upsampling, conv with norm, ...
    (r'^sem_seg_head\.p(\d)\.(\d)', _semantic_block),
    (r'^(semantic_head\.conv_upsample_layers\.\d\.conv\.\d\.)conv\.norm', r'\1gn'),
    (r'^sem_seg_head\.predictor', r'semantic_head.conv_logits'),
)
# From the first implementation to CenterMask2; VoVNet and MobileNetV2 have the same names in both.
_FIRST_RULES = (
    (r'^backbone\.body\.', r'backbone.bottom_up.'),
    # ResNet
    (r'^(backbone\.bottom_up\.)layer(\d)\.', lambda m: f'{m[1]}res{int(m[2]) + 1}.'),
    (r'^(backbone\.bottom_up\.(?:stem|res\d\.\d+)\.)bn(\d)\.', r'\1conv\2.norm.'),
    (r'\.downsample\.0\.', r'.shortcut.'),
    (r'\.downsample\.1\.', r'.shortcut.norm.'),
    # VoVNet's deformable convs
    (r'/conv\.conv\.weight$', r'/conv.weight'),
    (r'/conv\.offset\.', r'/conv_offset.'),
    # FPN
    (r'^backbone\.fpn\.fpn_inner(\d)\.', lambda m: f'backbone.fpn_lateral{int(m[1]) + 1}.'),
    (r'^backbone\.fpn\.fpn_layer(\d)\.', lambda m: f'backbone.fpn_output{int(m[1]) + 1}.'),
    (r'^backbone\.fpn\.top_blocks\.', r'backbone.top_block.'),
    # FCOS
    (r'^rpn\.head\.centerness\.', r'proposal_generator.fcos_head.ctrness.'),
    (r'^rpn\.head\.', r'proposal_generator.fcos_head.'),
    # RoI branch
    (r'^roi_heads\.mask\.feature_extractor\.', r'roi_heads.mask_head.'),
    (r'^roi_heads\.mask\.predictor\.conv5_mask\.', r'roi_heads.mask_head.deconv.'),
    (r'^roi_heads\.mask\.predictor\.mask_fcn_logits\.', r'roi_heads.mask_head.predictor.'),
    (r'^roi_heads\.maskiou\.(?:feature_extractor|predictor)\.', r'roi_heads.maskiou_head.'),
)
_WITH_BACKGROUND = re.compile(r'roi_heads\.(mask_head\.predictor|maskiou_head\.maskiou)\.(weight|bias)$')


def rename_key(key: str, num_mask_convs: int = 4, first_level: int = 3) -> str | None:
    """Rename a parameter of CenterMask2.

    Args:
        key: Its name in a CenterMask2 detector or panoptic model.
        num_mask_convs: Number of convs of the mask head, which the spatial attention follows.
        first_level: The lowest FPN level: 3, or 2 in panoptic models.

    Returns:
        Its name in this package, or None if it has none.
    """
    new_key = re.sub(r'^roi_heads\.mask_head\.spatialAtt\.', f'roi_head.mask_head.convs.{num_mask_convs}.', key)
    for pattern, replacement in _RULES:
        new_key = re.sub(pattern, replacement, new_key)
    new_key = re.sub(
        r'^(neck\.(?:lateral|fpn)_convs)\.(-?\d)', lambda m: f'{m[1]}.{int(m[2]) + 3 - first_level}', new_key
    )
    parts = 'backbone(?!\\.bottom_up)|neck|bbox_head|roi_head|semantic_head'
    return new_key if re.match(rf'({parts})\.', new_key) else None


def rename_state_dict(state_dict: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Rename the parameters of a CenterMask2 detector or panoptic model.

    The semantic channel of all things comes first in CenterMask2, and last here.

    Returns:
        The parameters by this package's names, and the names that have no counterpart.
    """
    num_mask_convs = sum(bool(re.match(r'roi_heads\.mask_head\.mask_fcn\d\.weight', key)) for key in state_dict)
    first_level = 2 if 'backbone.fpn_lateral2.weight' in state_dict else 3
    renamed, unknown = {}, []
    for key, value in state_dict.items():
        new_key = rename_key(key, num_mask_convs, first_level)
        if new_key is None:
            unknown.append(key)
        elif new_key.startswith('semantic_head.conv_logits.'):
            renamed[new_key] = value.roll(-1, dims=0)
        else:
            # The reference keeps a level's scale as a vector of one element.
            renamed[new_key] = value.reshape(()) if new_key.endswith('.scale') and value.numel() == 1 else value
    return renamed, unknown


def rename_to_centermask2(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the parameters of a detector of the first implementation to CenterMask2's names.

    The first class of its mask and MaskIoU heads is the background, which no detection has: it is left out. Unknown
    names stay as they are. The result has fewer parameters if two names mean the same one.
    """
    renamed = {}
    for key, value in state_dict.items():
        new_key = key
        for pattern, replacement in _FIRST_RULES:
            new_key = re.sub(pattern, replacement, new_key)
        has_background = new_key != key and _WITH_BACKGROUND.match(new_key) and value.ndim > 0
        renamed[new_key] = value[1:] if has_background else value
    return renamed
