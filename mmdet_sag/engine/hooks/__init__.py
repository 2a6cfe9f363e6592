from .atomic_checkpoint_hook import AtomicCheckpointHook
from .attention_visualization_hook import AttentionVisualizationHook
from .early_stopping_hook import EarlyStoppingHook
from .fast_inference_hook import FastInferenceHook
from .fast_training_hook import FastTrainingHook
from .folder_visualization_hook import FolderVisualizationHook
from .logger_hook import LoggerHook
from .loss_guard_hook import LossGuardHook
from .preemption_hook import PreemptionHook
from .pseudo_label_visualization_hook import PseudoLabelVisualizationHook
from .throughput_timer_hook import ThroughputTimerHook
from .validation_loss_hook import ValidationLossHook

__all__ = [
    'AttentionVisualizationHook',
    'EarlyStoppingHook',
    'FastInferenceHook',
    'FastTrainingHook',
    'FolderVisualizationHook',
    'LoggerHook',
    'LossGuardHook',
    'PreemptionHook',
    'PseudoLabelVisualizationHook',
    'ThroughputTimerHook',
    'ValidationLossHook',
    'AtomicCheckpointHook',
]
