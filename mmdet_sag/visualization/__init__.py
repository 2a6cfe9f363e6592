from .attention_recorder import AttentionRecorder
from .panoptic_local_visualizer import PanopticLocalVisualizer

__all__ = ['AttentionRecorder', 'PanopticLocalVisualizer']
