from .data_set_report import DataSetReport
from .full_check import check_data_sets
from .repair import repair_coco, write_coco

__all__ = ['DataSetReport', 'check_data_sets', 'repair_coco', 'write_coco']
