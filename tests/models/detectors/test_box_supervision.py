"""Whole models that learn objects without mask: one step, two processes, a resumed run, and with a teacher."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.registry import init_default_scope
from support.cpu_autocast import cpu_autocast
from support.reference import make_batch
from support.tiny import build_tiny, ground_truth, images
from support.tiny_semi import build_teacher, semi_rectangles_config
from support.tiny_training import assert_resumes_bit_by_bit, rectangles_config, write_rectangles
from support.tool import run_tool

ROOT = Path(__file__).parents[3]
OPTIONS = {
    'data_preprocessor.type': 'BoxSupervisedDataPreprocessor',
    'roi_head.mask_head.loss_boxes': dict(type='BoxInstLoss', warmup_iters=4),
    'train_cfg.rcnn.roi_margin': (-0.1, 0.15),
}
MASK_LOSSES = {'loss_mask', 'loss_mask_project', 'loss_mask_box', 'loss_mask_pairwise'}
NO_MASK = [[0.0] * 6]


def mixed_batch():
    """An object with a mask and one without in the first image, one without in the second, which is smaller."""
    first, second = ground_truth((8, 8, 40, 40), (20, 20, 60, 50)), ground_truth((4, 4, 30, 40))
    first[2][1] = second[2][0] = NO_MASK
    return make_batch(images((64, 64), (48, 40)), [first, second])


def step(model, batch):
    losses = model(**model.data_preprocessor(batch, True), mode='loss')
    loss, _ = model.parse_losses(losses)
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    return losses


@pytest.mark.parametrize('dtype', [None, torch.bfloat16], ids=['float32', 'autocast'])
def test_a_batch_of_masks_and_boxes_trains_all_of_the_mask_branch(dtype, device):
    model = build_tiny(**OPTIONS).to(device)
    # After the warm-up, where the pairs count: trainings of other tests leave their own iteration.
    MessageHub.get_current_instance().update_info('iter', 4)
    if dtype is None:
        losses = step(model, mixed_batch())
    else:
        with cpu_autocast(dtype) if device == 'cpu' else torch.autocast(device, dtype):
            losses = step(model, mixed_batch())
    assert all(losses[name] > 0 for name in MASK_LOSSES)
    # Only one object has an IoU to learn.
    assert losses['loss_mask_iou'] > 0


def test_rois_move_in_training_alone():
    model = build_tiny(**OPTIONS)
    proposals = [torch.tensor([[10.0, 20, 50, 40]])] * 2
    seen = []

    class Extractor(torch.nn.Module):
        num_inputs = 3

        def forward(self, x, rois, **kwargs):
            seen.append(rois)
            return torch.zeros(len(rois), 32, 14, 14)

    model.roi_head.mask_roi_extractor = Extractor()
    step_data = model.data_preprocessor(make_batch(images((64, 64)), [ground_truth((10, 20, 50, 40))]), True)
    results = [step_data['data_samples'][0].gt_instances.clone()]
    results[0].scores = torch.ones(1)
    for name in ('masks', 'has_mask'):
        results[0].pop(name)
    features = [torch.zeros(1, 32, 8, 8)] * 3
    with torch.no_grad():
        model.roi_head.loss(features, results, step_data['data_samples'])
        model.roi_head.predict(features, results, step_data['data_samples'])
    outward = (seen[0][:, 1:] - proposals[0]) / torch.tensor([-40.0, -20, 40, 20])
    assert (outward >= -0.1 - 1e-6).all() and (outward <= 0.15 + 1e-6).all() and outward.unique().numel() > 4
    assert seen[1].tolist() == [[0, 10, 20, 50, 40]]


def test_mask_rcnn_learns_boxes(device):
    init_default_scope('mmdet')
    config = Config.fromfile(ROOT / 'configs/box_supervised/box-supervised_mask-rcnn_r50_fpn_1x_coco.py').model
    config.backbone = dict(type='ResNet', depth=18, base_channels=8, norm_eval=False)
    config.neck.update(in_channels=[8, 16, 32, 64], out_channels=16)
    config.rpn_head.update(in_channels=16, feat_channels=16)
    config.roi_head.bbox_roi_extractor.out_channels = config.roi_head.mask_roi_extractor.out_channels = 16
    config.roi_head.bbox_head.update(in_channels=16, fc_out_channels=16, num_classes=3)
    config.roi_head.mask_head.update(in_channels=16, conv_out_channels=16, num_classes=3, num_convs=1)
    torch.manual_seed(0)
    model = MODELS.build(config)
    model.init_weights()
    losses = step(model.to(device), mixed_batch())
    assert all(losses[name] > 0 for name in MASK_LOSSES - {'loss_mask_pairwise'})


def test_a_teachers_labelled_objects_learn_from_their_boxes_and_its_pseudo_labels_do_not(device):
    model = build_teacher(detector=OPTIONS).to(device)
    labelled, unlabelled = mixed_batch(), make_batch(images((64, 64), (64, 64)), [(np.zeros((0, 4)), [], [])] * 2)
    batches = dict(sup_weak=labelled, sup_strong=copy.deepcopy(labelled), unsup_teacher=unlabelled)
    batches['unsup_student'] = copy.deepcopy(unlabelled)
    for batch in batches.values():
        for sample in batch['data_samples']:
            sample.set_metainfo(dict(img_path='a.png'))
    prepared = {name: model.data_preprocessor.data_preprocessor(batch, True) for name, batch in batches.items()}
    losses = model.loss(*({name: batch[key] for name, batch in prepared.items()} for key in ('inputs', 'data_samples')))
    found = {name: {key for key in losses if key.startswith(f'{name}_loss_mask')} for name in ('sup', 'unsup')}
    assert found['sup'] == {f'sup_{name}' for name in (*MASK_LOSSES, 'loss_mask_iou')}
    assert found['unsup'] == {'unsup_loss_mask', 'unsup_loss_mask_iou'}


def box_supervised(config: Config, detector: str = 'model') -> Config:
    """Half of the objects of a configured training lose their masks."""
    config.merge_from_dict({f'{detector}.{key}': value for key, value in OPTIONS.items()})
    datasets = config.train_dataloader.dataset
    for dataset in datasets.get('datasets', [datasets]):
        for transform in dataset.pipeline:
            if transform.type == 'LoadAnnotations':
                transform.type = 'LoadMaskOrBoxAnnotations'
    config.val_cfg = config.val_dataloader = config.val_evaluator = None
    return config


def write_data(folder: Path) -> None:
    write_rectangles(folder)
    path = folder / 'annotations.json'
    content = json.loads(path.read_text())
    for annotation in content['annotations'][1::2]:
        del annotation['segmentation']
    path.write_text(json.dumps(content))


@pytest.mark.parametrize('semi', [False, True], ids=['CenterMask', 'Polite Teacher'])
def test_a_resumed_training_is_the_same_bit_by_bit(semi, tmp_path):
    """The weight of the pairs grows on where it was."""
    write_data(tmp_path / 'data')
    if semi:
        config = semi_rectangles_config(tmp_path / 'data')
        config.merge_from_dict({'model.data_preprocessor.data_preprocessor.type': OPTIONS['data_preprocessor.type']})
        config = box_supervised(config, 'model.detector')
    else:
        config = box_supervised(rectangles_config(tmp_path / 'data'))
    assert_resumes_bit_by_bit(config, tmp_path)


def test_the_commands_train_two_processes_with_accumulated_gradients_test_and_report(tmp_path):
    write_data(tmp_path / 'data')
    config = box_supervised(rectangles_config(tmp_path / 'data'))
    config.optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=1e-3), accumulative_counts=2)
    config.train_cfg.max_iters = 2
    config.launcher = 'pytorch'
    config.test_evaluator.metric = 'bbox'
    config.test_dataloader.dataset.pipeline[2].type = 'LoadMaskOrBoxAnnotations'
    config.dump(tmp_path / 'config.py')
    trained = run_tool(
        ROOT / 'tools/train.py', 'config.py', '--launcher', 'pytorch', '--work-dir', 'out', cwd=tmp_path, processes=2
    )
    assert trained.returncode == 0, trained.stderr[-3000:]
    assert 'loss_mask_project' in trained.stdout + trained.stderr
    for tool, *options in (['test.py'], ['test.py', '--tta'], ['analysis_tools/report.py', '--out', 'report.html']):
        tested = run_tool(
            ROOT / 'tools' / tool, 'config.py', 'out/iter_2.pth', '--work-dir', 'test', *options, cwd=tmp_path
        )
        assert tested.returncode == 0, tested.stderr[-3000:]
        said = 'only boxes are compared: ' if 'report' in tool else 'coco/bbox_mAP'
        assert said in tested.stdout + tested.stderr
