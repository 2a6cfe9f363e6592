from .fast_inference_hook import FastInferenceHook
from .fast_training_hook import FastTrainingHook

__all__ = ['FastInferenceHook', 'FastTrainingHook']
