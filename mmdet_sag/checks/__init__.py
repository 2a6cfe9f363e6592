from .full_check import check_data_sets
from .hand_over import hand_over
from .run import check_inputs

__all__ = ['check_data_sets', 'check_inputs', 'hand_over']
