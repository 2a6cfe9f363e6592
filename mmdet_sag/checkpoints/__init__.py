from .converting import Conversion, convert_checkpoint

__all__ = ['Conversion', 'convert_checkpoint']
