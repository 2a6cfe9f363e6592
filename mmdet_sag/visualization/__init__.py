from .attention_recorder import AttentionRecorder, paste_attention
from .local_visualizer import InstanceLocalVisualizer, beside, draw_instances, panoptic_instances

__all__ = [
    'AttentionRecorder',
    'InstanceLocalVisualizer',
    'beside',
    'draw_instances',
    'panoptic_instances',
    'paste_attention',
]
