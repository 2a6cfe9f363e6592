from .data_set import make_demo_shapes
from .panoptic_shape_scene import PanopticShapeScene
from .shape_scene import ShapeScene

__all__ = ['PanopticShapeScene', 'ShapeScene', 'make_demo_shapes']
