"""Faster computation on a CPU: :func:`prepare_for_inference`, :func:`prepare_for_training` and :func:`give_back`."""

from .fused_adamw import FusedAdamW
from .preparation import give_back, prepare_for_inference, prepare_for_training

__all__ = ['FusedAdamW', 'give_back', 'prepare_for_inference', 'prepare_for_training']
