from .panoptic_png import id_to_rgb, read_segment_ids, rgb_to_id
from .panoptic_source import PanopticSource

__all__ = ['PanopticSource', 'id_to_rgb', 'read_segment_ids', 'rgb_to_id']
