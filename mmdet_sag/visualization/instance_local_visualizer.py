import mmcv
import numpy as np
from mmdet.registry import VISUALIZERS
from mmdet.structures import DetDataSample
from mmdet.visualization import DetLocalVisualizer
from mmengine.structures import InstanceData

from .draw_instances import beside, draw_instances, panoptic_instances


@VISUALIZERS.register_module(name=['InstanceLocalVisualizer', 'PanopticLocalVisualizer'])
class InstanceLocalVisualizer(DetLocalVisualizer):
    """Draws with :func:`draw_instances`: ground truth on the left, if there is any, predictions on the right.

    Of a panoptic or semantic segmentation, its segments are drawn in place of the instances.
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
        pictures = []
        for kind, drawn in (('gt', draw_gt), ('pred', draw_pred)):
            instances = self._instances(data_sample, kind, pred_score_thr) if drawn and data_sample else None
            if instances is not None:
                pictures.append(self._picture(image, instances))
        picture = beside(*pictures) if pictures else image
        self.set_image(picture)
        if show:
            self.show(picture, win_name=name, wait_time=wait_time)
        if out_file is not None:
            mmcv.imwrite(picture[..., ::-1], out_file)
        else:
            self.add_image(name, picture, step)

    def _instances(self, sample: DetDataSample, kind: str, score_thr: float) -> InstanceData | None:
        for key in (f'{kind}_panoptic_seg', f'{kind}_sem_seg'):
            if key in sample:
                return panoptic_instances(sample.get(key), len(self.dataset_meta['classes']))
        instances = sample.get(f'{kind}_instances')
        return instances if instances is None or kind == 'gt' else instances[instances.scores > score_thr]

    def _picture(self, image: np.ndarray, instances: InstanceData) -> np.ndarray:
        labels = instances.labels.tolist()
        classes = self.dataset_meta.get('classes') or [f'class {k}' for k in range(max(labels, default=0) + 1)]
        bgr = np.ascontiguousarray(image[..., ::-1])
        return draw_instances(bgr, instances, classes, self.dataset_meta.get('palette'))[..., ::-1]
