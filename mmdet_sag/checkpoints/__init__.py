from .converting import CheckpointConversion, convert_checkpoint

__all__ = ['CheckpointConversion', 'convert_checkpoint']
