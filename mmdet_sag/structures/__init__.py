from .mask import *
