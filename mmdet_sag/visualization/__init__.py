from .attention_recorder import AttentionRecorder, paste_attention
from .draw_instances import draw_instances
from .panoptic_local_visualizer import PanopticLocalVisualizer

__all__ = ['AttentionRecorder', 'PanopticLocalVisualizer', 'draw_instances', 'paste_attention']
