from pathlib import Path
from typing import Any

import mmdet
import numpy as np
import torch
from mmcv.transforms import LoadAnnotations as MMCVLoadAnnotations
from mmcv.transforms import LoadImageFromFile
from mmdet.datasets.transforms import PackDetInputs, Resize
from mmdet.registry import TRANSFORMS
from mmdet.visualization import get_palette
from mmengine.config import Config, ConfigDict

from ..datasets.data_sources import dataset_meta, test_dataset
from ..datasets.transforms import FitResize, ShortSideResize
from ..errors import InputError
from ..fileio import sha256
from ..version import __version__
from ..visualization import picture_score_thr


def describe(cfg: Config, checkpoint: str, model_format: str, precision: str, num_classes: int) -> dict:
    """Describe a model for the programs that run it, in types of JSON; docs/deployment.md lists the keys.

    Raises:
        InputError: The runtime cannot prepare images or binarise masks as the config does, or the config names other
            classes.
    """
    meta = dataset_meta(cfg)
    classes = list(meta.get('classes') or [])
    if len(classes) != num_classes:
        raise InputError(
            f'the model has {num_classes} classes, but the data set of test_dataloader names {len(classes)}: set its '
            'metainfo.classes'
        )
    # Teacher and student of a semi-supervised detector have the same config.
    model = cfg.model.get('detector', cfg.model)
    # A model without RoI head has one test_cfg for all.
    rcnn = model.test_cfg.get('rcnn', model.test_cfg)
    box_cfg = model.test_cfg.get('bbox_head', rcnn)
    mask_thr = rcnn.get('mask_thr_binary', 0.5)
    if mask_thr < 0:
        raise InputError(
            f'test_cfg.rcnn.mask_thr_binary is {mask_thr}, which asks for probabilities in place of masks: '
            'set it to 0.5'
        )
    extra = dict(panoptic=_panoptic(model)) if 'panoptic_fusion_head' in model else {}
    return dict(
        # That with which every runtime.py so far can run it.
        runtime_version=2 if extra else 1,
        model=model.type,
        format=model_format,
        precision=precision,
        config=Path(cfg.filename).name,
        checkpoint=dict(name=Path(checkpoint).name, sha256=sha256(checkpoint)),
        classes=classes,
        palette=[list(colour) for colour in get_palette(meta.get('palette'), num_classes)],
        preprocessing=_preprocessing(model, test_dataset(cfg).pipeline),
        score_thr=box_cfg.get('score_thr', 0),
        picture_score_thr=picture_score_thr(checkpoint),
        max_per_img=box_cfg.max_per_img,
        mask_thr=mask_thr,
        inclusive_boxes=bool(model.get('inclusive_boxes', False)),
        has_mask_scores=bool(model.get('roi_head', {}).get('mask_iou_head')),
        versions=dict(mmdet_sag=__version__, mmdet=mmdet.__version__, torch=torch.__version__),
        **extra,
    )


def _panoptic(model: ConfigDict) -> dict:
    """How the runtime merges instances and semantic logits; ``stride`` is that of the logits."""
    cfg = model.test_cfg.panoptic
    return dict(
        num_things=model.panoptic_fusion_head.num_things_classes,
        stride=model.bbox_head.strides[0] >> model.get('instance_start_level', 1),
        score_thr=cfg.get('score_thr', 0.0),
        mask_overlap=cfg.mask_overlap,
        stuff_area_limit=cfg.stuff_area_limit,
    )


def _preprocessing(model: ConfigDict, pipeline: list[dict]) -> dict:
    preprocessor = model.get('data_preprocessor') or {}
    divisor = preprocessor.get('pad_size_divisor', 1)
    if divisor % 32:
        raise InputError(f'model.data_preprocessor.pad_size_divisor is {divisor}: set it to 32 or a multiple')
    return dict(
        resize=_resize(pipeline),
        # YOLOX's images are not normalized.
        mean=[float(value) for value in preprocessor.get('mean') or (0.0, 0.0, 0.0)],
        std=[float(value) for value in preprocessor.get('std') or (1.0, 1.0, 1.0)],
        # Both swap the same two channels.
        bgr_to_rgb=bool(preprocessor.get('bgr_to_rgb') or preprocessor.get('rgb_to_bgr')),
        pad_size_divisor=divisor,
        pad_value=float(np.float32(preprocessor.get('pad_value', 0))),
    )


def _check_loading(step: dict) -> None:
    """Refuse what the runtime does not do when it reads an image."""
    for key, usual in dict(color_type='color', imdecode_backend='cv2', to_float32=False).items():
        value = step.get(key, usual)
        if value not in (usual, None):
            raise InputError(
                f'the test pipeline loads images with {key}={value!r}, which an exported model cannot do: remove it'
            )


def _resize(pipeline: list[dict]) -> dict:
    """The one transform of a test pipeline that changes the image."""
    found = []
    for step in pipeline:
        transform: Any = TRANSFORMS.get(step['type'])
        if transform in (Resize, ShortSideResize, FitResize):
            found.append((transform, step))
        elif transform is LoadImageFromFile:
            _check_loading(step)
        elif not issubclass(transform, (MMCVLoadAnnotations, PackDetInputs)):
            raise InputError(
                f'the test pipeline has {step["type"]}: only LoadImageFromFile and one Resize or ShortSideResize can '
                'be exported; remove it (an exported model pads by itself)'
            )
    if len(found) != 1 or 'scale' not in found[0][1]:
        raise InputError('the test pipeline needs one Resize or ShortSideResize with a scale to be exported')
    transform, step = found[0]
    if step.get('interpolation', 'bilinear') != 'bilinear':
        raise InputError(f'the test pipeline resizes by {step.interpolation}: only bilinear can be exported')
    if step.get('backend', 'cv2') not in ('cv2', 'pillow'):
        raise InputError(f'the test pipeline resizes with {step.backend}: only cv2 and pillow can be exported')
    scale = step['scale']
    modes = {ShortSideResize: 'short_side', FitResize: 'fit'}
    mode = modes.get(transform, 'keep_ratio' if step.get('keep_ratio') else 'exact')
    return dict(
        mode=mode, scale=[scale, scale] if isinstance(scale, int) else list(scale), backend=step.get('backend', 'cv2')
    )
