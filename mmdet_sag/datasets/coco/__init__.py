from .annotation_file_check import AnnotationFileCheck
from .coco_file import load_coco
from .coco_source import CocoSource, coco_sources
from .hand_over import hand_over
from .problem_kinds import PROBLEM_KINDS, Fix, ProblemKind, Subject
from .problem_tally import ProblemTally

__all__ = [
    'PROBLEM_KINDS',
    'AnnotationFileCheck',
    'CocoSource',
    'Fix',
    'ProblemKind',
    'ProblemTally',
    'Subject',
    'coco_sources',
    'hand_over',
    'load_coco',
]
