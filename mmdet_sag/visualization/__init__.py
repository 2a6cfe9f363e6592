from .attention_recorder import AttentionRecorder, paste_attention
from .draw_instances import beside, draw_instances
from .instance_local_visualizer import InstanceLocalVisualizer
from .panoptic_local_visualizer import PanopticLocalVisualizer

__all__ = [
    'AttentionRecorder',
    'InstanceLocalVisualizer',
    'PanopticLocalVisualizer',
    'beside',
    'draw_instances',
    'paste_attention',
]
