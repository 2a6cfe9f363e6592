from .attention_recorder import AttentionRecorder, paste_attention
from .local_visualizer import InstanceLocalVisualizer, beside, draw_instances, panoptic_instances, write_picture
from .score_threshold import DEFAULT_SCORE_THR, keep_score_thr, picture_score_thr

__all__ = [
    'DEFAULT_SCORE_THR',
    'AttentionRecorder',
    'InstanceLocalVisualizer',
    'beside',
    'draw_instances',
    'keep_score_thr',
    'panoptic_instances',
    'paste_attention',
    'picture_score_thr',
    'write_picture',
]
