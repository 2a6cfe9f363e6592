from .check_inputs import check_inputs

__all__ = ['check_inputs']
