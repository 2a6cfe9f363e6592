from copy import deepcopy

from mmdet.models.test_time_augs import DetTTAModel
from mmengine.config import Config, ConfigDict

from ..datasets.data_sources import test_dataset
from ..errors import InputError
from ..models import CenterMask, PanopticCenterMask, PointCenterMask, TwoStageMaskTTAModel
from ..models.model_config import class_of, config_parts, type_name


def use_tta(cfg: Config) -> None:
    """Test a config's model with test-time augmentation.

    ``tta_model`` and ``tta_pipeline`` of the config are used. By default, images are flipped, and detections are merged
    by the model's own NMS. A semi-supervised model is augmented as the detector that it holds.
    """
    dataset = test_dataset(cfg)
    own_load = next((step for step in dataset.pipeline if type_name(step) == 'LoadMaskOrBoxAnnotations'), None)
    if 'tta_pipeline' not in cfg:
        *steps, pack = deepcopy(dataset.pipeline)
        pack.meta_keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip', 'flip_direction')
        flips = [dict(type='RandomFlip', prob=prob) for prob in (1.0, 0.0)]
        # After the flips: the ground truth that is drawn is that of the image as it is.
        loads = [[step] for step in steps if 'Annotations' in type_name(step)]
        steps = [step for step in steps if [step] not in loads]
        cfg.tta_pipeline = [*steps, dict(type='TestTimeAug', transforms=[flips, *loads, [pack]])]
    for _, _, step in config_parts(cfg.tta_pipeline, 'tta_pipeline') if own_load else ():
        # The zoo's pipelines load masks, which these data may not have.
        if type_name(step) == 'LoadAnnotations':
            step.update(own_load)
    own = _own_tta_model(cfg.model.get('detector', cfg.model))
    # Unpacking would make classes of what names them in a config with imports.
    tta_model = deepcopy(cfg.get('tta_model')) or ConfigDict(own)
    if type_name(tta_model) == 'SegTTAModel' and cfg.model.decode_head.get('out_channels') == 1:
        tta_model.type = 'mmdet.BinarySegTTAModel'
    elif class_of(tta_model) is DetTTAModel and _predicts_masks(cfg):
        if own['type'] != 'DetTTAModel':
            # The configs of box detectors have MMDetection's, which merges no masks.
            tta_model.type = own['type']
        elif TwoStageMaskTTAModel.supports(cfg.model):
            if 'tta_model' not in cfg:
                rcnn = cfg.model.test_cfg.rcnn
                tta_model.tta_cfg = dict(nms=rcnn.nms, max_per_img=rcnn.max_per_img)
            tta_model.type = 'TwoStageMaskTTAModel'
        else:
            raise InputError(
                f'--tta: the masks of {type_name(cfg.model)} cannot be merged; set tta_model in {cfg.filename} to a '
                'model that can, or test without --tta'
            )
    tta_model.module = cfg.model
    cfg.model = tta_model
    dataset.pipeline = cfg.tta_pipeline


def _own_tta_model(detector: ConfigDict) -> dict:
    kind = class_of(detector)
    if issubclass(kind, PointCenterMask):
        raise InputError('--tta: the masks of PointCenterMask cannot be merged: test without --tta')
    if not issubclass(kind, CenterMask):
        return dict(type='DetTTAModel', tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100))
    name = 'PanopticCenterMaskTTAModel' if issubclass(kind, PanopticCenterMask) else 'CenterMaskTTAModel'
    test_cfg = detector.test_cfg.bbox_head
    return dict(type=name, tta_cfg=dict(nms=test_cfg.nms, max_per_img=test_cfg.get('max_per_img', 100)))


def _predicts_masks(cfg: Config) -> bool:
    evaluators = cfg.test_evaluator if isinstance(cfg.test_evaluator, (list, tuple)) else [cfg.test_evaluator]
    metrics = [evaluator.get('metric') or [] for evaluator in evaluators]
    return (
        'mask_head' in cfg.model
        or 'mask_head' in (cfg.model.get('roi_head') or {})
        or any('segm' in ([metric] if isinstance(metric, str) else metric) for metric in metrics)
    )
