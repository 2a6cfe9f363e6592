"""CenterMask2's names of the parameters of CenterMask's first implementation."""

import re
from collections.abc import Mapping

from torch import Tensor

# Applied in this order, each to the result of those before it. VoVNet and MobileNetV2 keep their names.
_RULES = (
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


def is_first_implementation(state_dict: Mapping[str, Tensor]) -> bool:
    """Whether parameters have the names of a detector of the first implementation."""
    pattern = re.compile(r'(rpn\.head|backbone\.body|backbone\.fpn|roi_heads\.(mask|maskiou))\.')
    return any(pattern.match(key) for key in state_dict)


def rename_to_centermask2(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the parameters of a detector of the first implementation to CenterMask2's.

    Its mask and MaskIoU heads count the background as their first class, which no detection is of: it is left out.

    Args:
        state_dict: The parameters by their names there.

    Returns:
        The parameters by their names in CenterMask2; a name that no rule knows stays as it is. They are fewer where
        two names mean the same parameter.
    """
    renamed = {}
    for key, value in state_dict.items():
        new_key = key
        for pattern, replacement in _RULES:
            new_key = re.sub(pattern, replacement, new_key)
        has_background = new_key != key and _WITH_BACKGROUND.match(new_key) and value.ndim > 0
        renamed[new_key] = value[1:] if has_background else value
    return renamed
