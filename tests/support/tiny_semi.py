"""A Polite Teacher small enough to train and test in seconds, and teachers whose detections are set."""

import copy
from pathlib import Path

import torch
from mmdet.models.detectors import BaseDetector
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData

from .tiny import tiny_config
from .tiny_training import rectangles_config

SIZE = 64
BRANCHES = ('sup_weak', 'sup_strong', 'unsup_teacher', 'unsup_student')
STRONG_STEPS = [
    dict(
        type='RandomApply',
        prob=0.8,
        transforms=[
            dict(type='TorchvisionColour', name='ColorJitter', brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)
        ],
    ),
    dict(type='RandomNoiseErasing', prob=0.7, area=(0.05, 0.2), aspect=(0.3, 3.3)),
]


def semi_model(detector: dict, **semi_train_cfg) -> dict:
    """Config of a Polite Teacher of a detector."""
    return dict(
        type='PoliteTeacher',
        detector=detector,
        data_preprocessor=dict(type='MultiBranchDataPreprocessor', data_preprocessor=detector['data_preprocessor']),
        semi_train_cfg=semi_train_cfg,
        semi_test_cfg=dict(predict_on='teacher'),
    )


def build_teacher(seed: int = 0, detector: dict = None, **semi_train_cfg) -> BaseDetector:
    """A tiny Polite Teacher of three classes whose teacher is the student; ``detector`` is merged into its config."""
    init_default_scope('mmdet')
    config = tiny_config()
    config.merge_from_dict({f'model.{key}': value for key, value in (detector or {}).items()})
    torch.manual_seed(seed)
    model = MODELS.build(Config(semi_model(config.model, **semi_train_cfg))._cfg_dict)
    model.init_weights()
    model.teacher.load_state_dict(model.student.state_dict())
    # As the runner does; it also freezes what the config freezes.
    return model.train()


def detections(boxes: list, scores: list) -> InstanceData:
    """Detections of class 1."""
    return InstanceData(
        bboxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        scores=torch.tensor(scores, dtype=torch.float32),
        labels=torch.ones(len(scores), dtype=torch.long),
    )


def set_detections(model: BaseDetector, per_image: list, ious: list, logit: float = 9.0) -> None:
    """Make the teacher find ``per_image``, with masks that fill their boxes and the predicted IoU of those it keeps."""

    def predict_by_feat(*args, batch_img_metas: list, **kwargs) -> list:
        return [copy.deepcopy(found) for found in per_image[: len(batch_img_metas)]]

    def forward(x: tuple, results_list: list, *args, **kwargs) -> tuple:
        count = sum(len(results) for results in results_list)
        assert count == len(ious)
        return torch.full((count, 1, 28, 28), logit), torch.tensor(ious).repeat(3, 1).T

    model.teacher.bbox_head.predict_by_feat = predict_by_feat
    model.teacher.roi_head.forward = forward


def samples(boxes_per_image: list) -> list:
    """Data samples of images with rectangles, all of class 1."""
    found = []
    for boxes in boxes_per_image:
        masks = torch.zeros(len(boxes), SIZE, SIZE, dtype=torch.uint8)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes):
            mask[y1:y2, x1:x2] = 1
        gt_instances = InstanceData(
            bboxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
            labels=torch.ones(len(boxes), dtype=torch.long),
            masks=BitmapMasks(masks.cpu().numpy(), SIZE, SIZE),
        )
        sample = DetDataSample(gt_instances=gt_instances)
        shape = (SIZE, SIZE)
        sample.set_metainfo(
            dict(img_shape=shape, batch_input_shape=shape, ori_shape=shape, img_path='a.png', scale_factor=(1.0, 1.0))
        )
        found.append(sample)
    return found


def semi_rectangles_config(data: Path, validated: bool = False) -> Config:
    """Config that trains a tiny Polite Teacher on the data of ``write_rectangles``, half of it without labels."""
    config = rectangles_config(data)
    dataset = copy.deepcopy(config.train_dataloader.dataset.to_dict())
    load, annotate = dataset['pipeline'][:2]
    geometry = [
        dict(type='RandomChoiceResize', scales=[(64, 64), (80, 80)], keep_ratio=True),
        dict(type='RandomFlip', prob=0.5),
    ]
    pack = dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip', 'flip_direction'),
    )

    def branches(weak: str, strong: str) -> dict:
        return dict(type='MultiBranch', branch_field=list(BRANCHES), **{weak: [pack], strong: [*STRONG_STEPS, pack]})

    labelled = {**dataset, 'indices': 3, 'pipeline': [load, annotate, *geometry, branches('sup_weak', 'sup_strong')]}
    empty = dict(type='LoadEmptyAnnotations')
    unlabelled = {
        **dataset,
        'indices': -3,
        'filter_cfg': dict(filter_empty_gt=False),
        'pipeline': [load, empty, *geometry, branches('unsup_teacher', 'unsup_student')],
    }
    config.train_dataloader = dict(
        batch_size=4,
        num_workers=0,
        persistent_workers=False,
        sampler=dict(type='SeededGroupMultiSourceSampler', batch_size=4, source_ratio=[1, 1]),
        dataset=dict(type='ConcatDataset', datasets=[labelled, unlabelled]),
    )
    # Low thresholds, or an untrained teacher would find nothing.
    config.model = semi_model(config.model.to_dict(), cls_pseudo_thr=0.0, mask_pseudo_thr=0.0)
    config.model['detector']['train_cfg']['proposal'].update(score_thr=0.0, max_per_img=5)
    config.custom_hooks = [dict(type='MeanTeacherHook', momentum=0.0004, skip_buffer=False)]
    config.val_cfg = dict(type='TeacherStudentValLoop')
    if not validated:
        config.update(val_cfg=None, val_dataloader=None, val_evaluator=None)
        return config
    config.default_hooks.checkpoint.save_best = 'teacher/coco/segm_mAP'
    return config
