from pathlib import Path
from typing import Any

import mmdet
import numpy as np
import torch
from mmcv.transforms import LoadAnnotations as MMCVLoadAnnotations
from mmcv.transforms import LoadImageFromFile, Resize
from mmdet.datasets.transforms import PackDetInputs
from mmdet.registry import TRANSFORMS
from mmdet.visualization import get_palette
from mmengine.config import Config, ConfigDict

from ..datasets.data_sources import dataset_meta, test_dataset
from ..datasets.transforms import FitResize, ShortSideResize
from ..errors import InputError
from ..fileio import sha256
from ..models.model_config import class_of, type_name
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
    own = dict(semantic=_semantic(model)) if 'decode_head' in model else _detection(model, checkpoint)
    return dict(
        # That with which every runtime.py so far can run it.
        runtime_version=3 if 'semantic' in own else 2 if 'panoptic' in own else 1,
        model=type_name(model),
        format=model_format,
        precision=precision,
        config=Path(cfg.filename).name,
        checkpoint=dict(name=Path(checkpoint).name, sha256=sha256(checkpoint)),
        classes=classes,
        palette=[list(map(int, colour)) for colour in get_palette(meta.get('palette'), num_classes)],
        preprocessing=_preprocessing(model, test_dataset(cfg).pipeline, cfg.get('default_scope')),
        versions=dict(mmdet_sag=__version__, mmdet=mmdet.__version__, torch=torch.__version__),
        **own,
    )


def _detection(model: ConfigDict, checkpoint: str) -> dict:
    """How the runtime finishes detections."""
    # A model without RoI head has one test_cfg for all.
    rcnn = model.test_cfg.get('rcnn', model.test_cfg)
    box_cfg = model.test_cfg.get('bbox_head', rcnn)
    mask_thr = rcnn.get('mask_thr_binary', 0.5)
    if mask_thr < 0:
        raise InputError(
            f'test_cfg.rcnn.mask_thr_binary is {mask_thr}, which asks for probabilities in place of masks: '
            'set it to 0.5'
        )
    panoptic = dict(panoptic=_panoptic(model)) if 'panoptic_fusion_head' in model else {}
    return dict(
        score_thr=box_cfg.get('score_thr', 0),
        picture_score_thr=picture_score_thr(checkpoint),
        max_per_img=box_cfg.max_per_img,
        mask_thr=mask_thr,
        inclusive_boxes=bool(model.get('inclusive_boxes', False)),
        has_mask_scores=bool(model.get('roi_head', {}).get('mask_iou_head')),
        **panoptic,
    )


def _semantic(model: ConfigDict) -> dict:
    """How the runtime makes classes of logits; ``threshold`` is that of one channel's probability."""
    head, threshold = model.decode_head, None
    if head.get('out_channels') == 1:
        # MMSegmentation's default.
        threshold = 0.3 if head.get('threshold') is None else head.threshold
    return dict(threshold=threshold, align_corners=head.get('align_corners', False))


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


def _preprocessing(model: ConfigDict, pipeline: list[dict], scope: str | None) -> dict:
    preprocessor = model.get('data_preprocessor') or {}
    is_segmentor = 'decode_head' in model
    return dict(
        resize=_resize(pipeline, scope, is_segmentor),
        # YOLOX's images are not normalized.
        mean=[float(value) for value in preprocessor.get('mean') or (0.0, 0.0, 0.0)],
        std=[float(value) for value in preprocessor.get('std') or (1.0, 1.0, 1.0)],
        # Both swap the same two channels.
        bgr_to_rgb=bool(preprocessor.get('bgr_to_rgb') or preprocessor.get('rgb_to_bgr')),
        pad_size_divisor=_segmentor_divisor(preprocessor) if is_segmentor else _detector_divisor(preprocessor),
        pad_value=float(np.float32(preprocessor.get('pad_val' if is_segmentor else 'pad_value', 0))),
    )


def _detector_divisor(preprocessor: dict) -> int:
    divisor = preprocessor.get('pad_size_divisor', 1)
    if divisor % 32:
        raise InputError(f'model.data_preprocessor.pad_size_divisor is {divisor}: set it to 32 or a multiple')
    return divisor


def _segmentor_divisor(preprocessor: dict) -> int:
    padding = preprocessor.get('test_cfg') or {}
    if padding.get('size'):
        raise InputError(
            f'model.data_preprocessor.test_cfg pads images to size={padding["size"]}, which an exported model cannot '
            'do: set size_divisor in its place'
        )
    return padding.get('size_divisor') or 1


def _check_loading(step: dict) -> None:
    """Refuse what the runtime does not do when it reads an image."""
    for key, usual in dict(color_type='color', imdecode_backend='cv2', to_float32=False).items():
        value = step.get(key, usual)
        if value not in (usual, None):
            raise InputError(
                f'the test pipeline loads images with {key}={value!r}, which an exported model cannot do: remove it'
            )


def _resize(pipeline: list[dict], scope: str | None, is_segmentor: bool) -> dict:
    """The one transform of a test pipeline that changes the image; a segmentor's may also lack, or have a factor."""
    found = []
    for step in pipeline:
        with TRANSFORMS.switch_scope_and_registry(scope) as registry:
            transform: Any = class_of(step, registry)
        # MMSegmentation has a subclass of its own of this name.
        is_resize = issubclass(transform, Resize) and transform.__name__ == 'Resize'
        if is_resize or transform in (ShortSideResize, FitResize):
            found.append((transform, step))
        elif transform is LoadImageFromFile:
            _check_loading(step)
        elif not issubclass(transform, (MMCVLoadAnnotations, PackDetInputs)) and transform.__name__ != 'PackSegInputs':
            raise InputError(
                f'the test pipeline has {type_name(step)}: only LoadImageFromFile and one Resize or ShortSideResize '
                'can be exported; remove it (an exported model pads by itself)'
            )
    if is_segmentor and not found:
        return dict(mode='exact', scale_factor=[1.0, 1.0], backend='cv2')
    if len(found) != 1 or not (found[0][1].get('scale') or is_segmentor):
        raise InputError('the test pipeline needs one Resize or ShortSideResize with a scale to be exported')
    transform, step = found[0]
    if step.get('interpolation', 'bilinear') != 'bilinear':
        raise InputError(f'the test pipeline resizes by {step.interpolation}: only bilinear can be exported')
    if step.get('backend', 'cv2') not in ('cv2', 'pillow'):
        raise InputError(f'the test pipeline resizes with {step.backend}: only cv2 and pillow can be exported')
    modes = {ShortSideResize: 'short_side', FitResize: 'fit'}
    mode = modes.get(transform, 'keep_ratio' if step.get('keep_ratio') else 'exact')
    # Of both, a transform takes the scale.
    key = 'scale' if step.get('scale') else 'scale_factor'
    sides = [step[key]] * 2 if isinstance(step[key], (int, float)) else list(step[key])
    return {'mode': mode, key: sides, 'backend': step.get('backend', 'cv2')}
