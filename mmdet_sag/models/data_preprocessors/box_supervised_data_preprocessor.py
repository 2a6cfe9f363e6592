import cv2
import torch
from mmdet.models.data_preprocessors import DetDataPreprocessor
from mmdet.registry import MODELS
from torch import Tensor


@MODELS.register_module()
class BoxSupervisedDataPreprocessor(DetDataPreprocessor):
    """Data preprocessor of a model some or all of whose objects have a box and no mask.

    In training, ``gt_instances`` get ``has_mask`` (n, ), whether the mask of each object has any area, and, in images
    where one has none, ``lab_images``: n times the same image in the CIELAB colour space, shape (3, H, W), padded as
    the input is. :class:`LoadMaskOrBoxAnnotations` loads such objects.

    MMDetection's ``BoxInstDataPreprocessor`` instead replaces all masks by boxes, and needs scikit-image.

    Arguments are those of ``DetDataPreprocessor``. Images are loaded as BGR.
    """

    def __init__(self, *args, bgr_to_rgb: bool = False, **kwargs) -> None:
        super().__init__(*args, bgr_to_rgb=bgr_to_rgb, **kwargs)
        self.to_lab = cv2.COLOR_RGB2LAB if bgr_to_rgb else cv2.COLOR_BGR2LAB

    def forward(self, data: dict, training: bool = False) -> dict:
        """Prepare a batch; see ``DetDataPreprocessor``."""
        data = super().forward(data, training)
        for image, sample in zip(data['inputs'], data['data_samples']) if training else ():
            gt_instances = sample.gt_instances
            if 'masks' not in gt_instances:
                continue
            gt_instances.has_mask = torch.as_tensor(gt_instances.masks.areas > 0, device=image.device)
            if not gt_instances.has_mask.all():
                gt_instances.lab_images = [self.lab_image(image)] * len(gt_instances)
        return data

    def lab_image(self, image: Tensor) -> Tensor:
        """CIELAB colours (3, H, W) of a normalized image (3 or 1, H, W): lightness 0 to 100, and two of about +-100."""
        image = image * getattr(self, 'std', 1.0) + getattr(self, 'mean', 0.0)
        # Grey images may have one channel.
        pixels = (image / 255).clamp(0, 1).expand(3, -1, -1).permute(1, 2, 0).float().cpu().numpy()
        return torch.from_numpy(cv2.cvtColor(pixels, self.to_lab)).permute(2, 0, 1).to(image.device)
