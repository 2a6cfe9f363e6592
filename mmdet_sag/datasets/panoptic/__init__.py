from .panoptic_png import id_to_rgb, read_segment_ids, rgb_to_id

__all__ = ['id_to_rgb', 'read_segment_ids', 'rgb_to_id']
