from .short_side_resize import ShortSideResize

__all__ = ['ShortSideResize']
