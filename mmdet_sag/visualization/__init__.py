from .attention_recorder import AttentionRecorder, paste_attention
from .draw_instances import beside, draw_instances, panoptic_instances
from .instance_local_visualizer import InstanceLocalVisualizer

__all__ = [
    'AttentionRecorder',
    'InstanceLocalVisualizer',
    'beside',
    'draw_instances',
    'panoptic_instances',
    'paste_attention',
]
