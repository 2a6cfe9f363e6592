from torch import Tensor

from ...errors import InputError
from .detection_graph import DetectionGraph


class SegmentationGraph(DetectionGraph):
    """MMSegmentation's ``EncoderDecoder`` as one graph, up to logits of the size of its input.

    Arguments are those of :class:`DetectionGraph`.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        mode = self.detector.test_cfg.get('mode', 'whole')
        if mode != 'whole':
            raise InputError(
                f'test_cfg.mode={mode} cannot be exported: set --cfg-options model.test_cfg.mode=whole, and measure '
                'the model with it'
            )

    def forward(self, images: Tensor, image_sizes: Tensor) -> tuple[Tensor]:
        """Logits of normalized images (N, 3, H, W), padded to multiples of the preprocessor's divisor.

        Returns:
            ``semantic_logits`` of shape (N, C, H, W), in float32. C is 1 where one channel stands for two classes.
        """
        shape = images.shape[2:]
        # Heads read the first image's alone.
        metas = [dict(img_shape=shape, pad_shape=shape)]
        return (self.detector.encode_decode(images.to(self.dtype), metas).float(),)
