from .data_statistics import DataStatistics
from .generated_config import GeneratedConfig
from .zoo_config import find_zoo_config

__all__ = ['DataStatistics', 'GeneratedConfig', 'find_zoo_config']
