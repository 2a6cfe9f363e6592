from pathlib import Path

import mmcv
import numpy as np
from mmdet.apis import DetInferencer
from mmdet.evaluation import INSTANCE_OFFSET
from mmdet.structures import DetDataSample

from ..datasets.coco_instance_panoptic import id_to_rgb


class PanopticInferencer(DetInferencer):
    """``DetInferencer`` that also saves panoptic results, for which MMDetection's needs ``panopticapi``.

    Models without panoptic results are treated as there.
    """

    def pred2dict(self, data_sample: DetDataSample, pred_out_dir: str = '') -> dict:
        """Turn a prediction into numbers and, with ``pred_out_dir``, save it.

        Args:
            data_sample: Prediction of the model.
            pred_out_dir: Folder that gets ``preds/<image>.json`` and ``preds/<image>_panoptic_seg.png``, in which
                R + 256 G + 65536 B = label + 1000 x number of the instance, and 0 where there is nothing.

        Returns:
            What ``DetInferencer`` returns, and ``panoptic_seg_path`` or, if nothing is saved, ``panoptic_seg``, the
            image (H, W, 3) that would be.
        """
        if 'pred_panoptic_seg' not in data_sample:
            return super().pred2dict(data_sample, pred_out_dir)
        panoptic = data_sample.pred_panoptic_seg
        del data_sample.pred_panoptic_seg
        number = self.num_predicted_imgs
        result = super().pred2dict(data_sample, pred_out_dir)
        ids = panoptic.sem_seg[0].cpu().numpy().astype(np.int32)
        ids[ids % INSTANCE_OFFSET >= len(self.model.dataset_meta['classes'])] = 0
        image = id_to_rgb(ids)
        if pred_out_dir:
            name = Path(data_sample.img_path).stem if 'img_path' in data_sample else number
            result['panoptic_seg_path'] = str(Path(pred_out_dir, 'preds', f'{name}_panoptic_seg.png'))
            mmcv.imwrite(image[..., ::-1], result['panoptic_seg_path'])
        else:
            result['panoptic_seg'] = image
        return result
