from .demo_shapes import make_demo_shapes, parts_without_holes
from .shape_scene import ShapeScene

__all__ = ['ShapeScene', 'make_demo_shapes', 'parts_without_holes']
