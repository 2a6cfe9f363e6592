from .checkpoint_checks import check_checkpoint_file, check_pretrained
from .loader_checks import check_full_batch, check_loader
from .model_checks import check_class_count, check_types, has_mask_branch

__all__ = [
    'check_checkpoint_file',
    'check_class_count',
    'check_full_batch',
    'check_loader',
    'check_pretrained',
    'check_types',
    'has_mask_branch',
]
