from .hooks import *
from .runner import *
