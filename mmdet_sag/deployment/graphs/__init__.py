from .centermask_graph import CenterMaskGraph
from .detection_graph import DetectionGraph, Outputs
from .two_stage_graph import TwoStageGraph

__all__ = ['CenterMaskGraph', 'DetectionGraph', 'Outputs', 'TwoStageGraph']
