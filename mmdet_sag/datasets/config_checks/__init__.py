from .checkpoint_checks import check_checkpoint_file, check_pretrained
from .loader_checks import check_full_batch, check_loader
from .model_checks import check_class_count, check_types, has_mask_branch
from .random_backbone import unfreeze_random_backbones

__all__ = [
    'check_checkpoint_file',
    'check_class_count',
    'check_full_batch',
    'check_loader',
    'check_pretrained',
    'check_types',
    'has_mask_branch',
    'unfreeze_random_backbones',
]
