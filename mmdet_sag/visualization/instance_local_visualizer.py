import mmcv
import numpy as np
from mmdet.registry import VISUALIZERS
from mmdet.structures import DetDataSample
from mmdet.visualization import DetLocalVisualizer
from mmengine.structures import InstanceData

from .draw_instances import beside, draw_instances


@VISUALIZERS.register_module()
class InstanceLocalVisualizer(DetLocalVisualizer):
    """Draws instances with :func:`draw_instances`: ground truth on the left, if there is any, predictions on the right.

    Samples with semantic or panoptic segmentations are drawn as by ``DetLocalVisualizer``.
    """

    def add_datasample(
        self,
        name: str,
        image: np.ndarray,
        data_sample: DetDataSample | None = None,
        draw_gt: bool = True,
        draw_pred: bool = True,
        show: bool = False,
        wait_time: float = 0,
        out_file: str | None = None,
        pred_score_thr: float = 0.3,
        step: int = 0,
    ) -> None:
        """Draw a data sample. Arguments are those of ``DetLocalVisualizer``."""
        if data_sample is None or any(key.endswith('_seg') for key in data_sample.all_keys()):
            super().add_datasample(
                name, image, data_sample, draw_gt, draw_pred, show, wait_time, out_file, pred_score_thr, step
            )
            return
        pictures = []
        if draw_gt and 'gt_instances' in data_sample:
            pictures.append(self._picture(image, data_sample.gt_instances))
        if draw_pred and 'pred_instances' in data_sample:
            pred = data_sample.pred_instances
            pictures.append(self._picture(image, pred[pred.scores > pred_score_thr]))
        picture = beside(*pictures) if pictures else image
        self.set_image(picture)
        if show:
            self.show(picture, win_name=name, wait_time=wait_time)
        if out_file is not None:
            mmcv.imwrite(picture[..., ::-1], out_file)
        else:
            self.add_image(name, picture, step)

    def _picture(self, image: np.ndarray, instances: InstanceData) -> np.ndarray:
        labels = instances.labels.tolist()
        classes = self.dataset_meta.get('classes') or [f'class {k}' for k in range(max(labels, default=0) + 1)]
        bgr = np.ascontiguousarray(image[..., ::-1])
        return draw_instances(bgr, instances, classes, self.dataset_meta.get('palette'))[..., ::-1]
