import torch
from mmdet.registry import MODELS
from mmengine.model import BaseTTAModel
from mmengine.structures import PixelData


@MODELS.register_module()
class BinarySegTTAModel(BaseTTAModel):
    """Test-time augmentation of a segmentor of MMSegmentation with one output channel, such as SA-UNet.

    Averages the foreground's probabilities over the views. MMSegmentation's ``SegTTAModel`` takes a second sigmoid of
    them, after which no pixel is background.
    """

    def merge_preds(self, data_samples_list: list[list]) -> list:
        """Merge the predictions, ``SegDataSample``, of the views of each image."""
        merged = [views[0] for views in data_samples_list]
        for sample, views in zip(merged, data_samples_list):
            # What a segmentor with one channel calls logits went through the sigmoid.
            probs = torch.stack([view.seg_logits.data for view in views]).mean(dim=0)
            sample.seg_logits = PixelData(data=probs)
            sample.pred_sem_seg = PixelData(data=(probs > self.module.decode_head.threshold).to(probs))
        return merged
