import numpy as np
from mmdet.registry import VISUALIZERS
from mmdet.structures import DetDataSample
from mmdet.visualization import DetLocalVisualizer
from mmengine.structures import PixelData


@VISUALIZERS.register_module()
class PanopticLocalVisualizer(DetLocalVisualizer):
    """Draws the panoptic segmentation of a sample without its instances."""

    def add_datasample(self, name: str, image: np.ndarray, data_sample: DetDataSample | None = None, **kwargs) -> None:
        """Draw a data sample. Arguments are those of ``DetLocalVisualizer``."""
        if data_sample is not None and 'pred_panoptic_seg' in data_sample:
            data_sample = data_sample.clone()
            if 'pred_instances' in data_sample:
                del data_sample.pred_instances
            if 'gt_sem_seg' in data_sample and 'gt_instances' in data_sample:
                del data_sample.gt_instances
        super().add_datasample(name, image, data_sample, **kwargs)

    def _draw_panoptic_seg(
        self, image: np.ndarray, panoptic_seg: PixelData, classes: list | None, palette: list | None
    ) -> np.ndarray:
        if (panoptic_seg.sem_seg == len(classes)).all():
            return image
        return super()._draw_panoptic_seg(image, panoptic_seg, classes, palette)
