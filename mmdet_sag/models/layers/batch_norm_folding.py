from mmcv.cnn import fuse_conv_bn
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

# Where the order of submodules is that of the computation, and a batch norm does nothing else.
_PACKAGES = {'torch', 'mmcv', 'mmdet', 'mmdet_sag'}


def fold_batch_norms(module: nn.Module) -> nn.Module:
    """Fold a model's batch norms into the convs before them, in place, like mmcv's ``fuse_conv_bn``, and return it.

    Modules of other packages keep theirs: timm's norms hold an activation, and its branches are added before a norm.
    """
    for parent in [part for part in module.modules() if _is_known(part)]:
        conv = None
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Conv2d):
                # Others may standardise their weights.
                conv = child if _is_known(child) else None
            elif isinstance(child, _BatchNorm) and conv is not None:
                if _is_known(child):
                    fuse_conv_bn(nn.Sequential(conv, child))
                    setattr(parent, name, nn.Identity())
                conv = None
    return module


def _is_known(module: nn.Module) -> bool:
    return type(module).__module__.partition('.')[0] in _PACKAGES
