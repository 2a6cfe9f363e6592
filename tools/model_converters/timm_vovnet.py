"""Names and input convention of timm's VoVNets in this package."""

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# Mean of the configs' data_preprocessor in RGB, pixels in [0, 255]. Their std is 1.
_CONFIG_MEAN = (123.675, 116.28, 103.53)
# Just under 3: x + 3 stays inside the hard sigmoid's slope, so that the factor is 1 up to 2e-7 and can still be learnt.
_IDENTITY_BIAS = 3 - 1e-6
_NORM_EPS = 1e-5

_RULES = (
    (r'^(stages\.0)\.blocks\.', r'\1.'),
    # All stages except the first begin with a pooling layer, which takes the first index.
    (r'^(stages\.[1-9])\.blocks\.(\d+)', lambda m: f'{m[1]}.{int(m[2]) + 1}'),
    (r'\.conv_mid\.', '.convs.'),
    (r'\.conv_concat\.', '.concat.'),
    (r'\.conv_reduction\.', '.reduction.'),
    (r'\.conv_dw\.', '.depthwise_conv.conv.'),
    (r'\.conv_pw\.', '.pointwise_conv.conv.'),
    (r'\.attn\.fc\.', '.ese.fc.'),
)


def rename_timm_vovnet(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of a timm ``ese_vovnet*`` without classifier.

    timm weighs channels (eSE) only in the last block of a stage, the published models in all blocks: the other blocks
    get an eSE that multiplies by one and can still learn. Unknown names stay as they are.
    """
    depthwise = {key.rpartition('.conv_pw.')[0] for key in state_dict if '.conv_pw.' in key}
    renamed = {}
    for key, value in state_dict.items():
        layer, _, name = key.rpartition('.bn.')
        new_key = f'{layer}.pointwise_conv.bn.{name}' if layer in depthwise else key
        for pattern, replacement in _RULES:
            new_key = re.sub(pattern, replacement, new_key)
        renamed[new_key] = value
    _add_missing_ese(renamed)
    return renamed


def fold_input_convention(
    state_dict: Mapping[str, Tensor], mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD
) -> dict[str, Tensor]:
    """Adapt timm's weights to the input of this package's configs.

    timm's models take normalised RGB images; the configs here subtract the mean from BGR images. The difference goes
    into the first conv and the statistics of its norm layer. With another mean than the configs', features near the
    border of the image differ, because the padding of the first conv is another colour.

    Args:
        state_dict: Weights by their names in ``VoVNet``.
        mean: Mean of the RGB channels in [0, 1] that the model was trained with.
        std: Standard deviation of the same.

    Returns:
        The weights, three of them changed.
    """
    names = ('stem.0.conv.weight', 'stem.0.bn.running_mean', 'stem.0.bn.running_var')
    # In float64: the results are rounded once.
    weight, running_mean, running_var = (state_dict[name].double() for name in names)
    scale = 255 * torch.tensor(std, dtype=torch.float64)
    shift = torch.tensor(_CONFIG_MEAN, dtype=torch.float64) - 255 * torch.tensor(mean, dtype=torch.float64)
    # The conv takes the ratios of the channels' std, the norm layer their size. If the conv took both, its weights
    # would be about 60 times smaller and its gradients larger, and the learning rate too high for this layer.
    size = scale.mean()
    weight = weight * (size / scale).view(1, 3, 1, 1)
    running_mean = size * running_mean - weight.sum((2, 3)) @ shift
    running_var = size**2 * (running_var + _NORM_EPS) - _NORM_EPS
    folded = (weight.flip(1), running_mean, running_var)
    return {**state_dict, **{name: value.float().contiguous() for name, value in zip(names, folded)}}


def _add_missing_ese(state_dict: dict[str, Tensor]) -> None:
    blocks = sorted(
        (int(match[1]), int(match[2]), match[0][: -len('concat.conv.weight')])
        for match in (re.match(r'stages\.(\d)\.(\d+)\.concat\.conv\.weight$', key) for key in state_dict)
        if match and state_dict[match[0]].ndim == 4
    )
    for (stage, _, block), (next_stage, _, _) in zip(blocks, blocks[1:]):
        # The last block of a stage always has its eSE.
        if stage == next_stage and f'{block}ese.fc.weight' not in state_dict:
            weight = state_dict[f'{block}concat.conv.weight']
            channels = len(weight)
            state_dict[f'{block}ese.fc.weight'] = weight.new_zeros(channels, channels, 1, 1)
            state_dict[f'{block}ese.fc.bias'] = weight.new_full((channels,), _IDENTITY_BIAS)
