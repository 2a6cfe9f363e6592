from .atomic_checkpoint_hook import AtomicCheckpointHook
from .attention_visualization_hook import AttentionVisualizationHook
from .loss_guard_hook import LossGuardHook
from .preemption_hook import PreemptionHook
from .pseudo_label_visualization_hook import PseudoLabelVisualizationHook
from .throughput_timer_hook import ThroughputTimerHook

__all__ = [
    'AttentionVisualizationHook',
    'LossGuardHook',
    'PreemptionHook',
    'PseudoLabelVisualizationHook',
    'ThroughputTimerHook',
    'AtomicCheckpointHook',
]
