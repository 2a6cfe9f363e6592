from .input_checks import check_inputs

__all__ = ['check_inputs']
