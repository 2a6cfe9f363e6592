"""A generated config inherits the zoo's, fits the data, and builds as it is."""

import json
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from mmdet.registry import DATASETS, MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from support.tiny_training import write_rectangles
from torch.nn.modules.batchnorm import _BatchNorm

from mmdet_sag.checkpoints.zoo import config_root, find_zoo_config
from mmdet_sag.checks import check_inputs
from mmdet_sag.checks.checkpoint import check_pretrained
from mmdet_sag.checks.model import check_class_counts
from mmdet_sag.configuration.generated_config import GeneratedConfig
from mmdet_sag.configuration.training_data_summary import TrainingDataSummary
from mmdet_sag.errors import InputError

# Every kind of backbone in every family: the others differ in depth and width.
MODELS_OF_ALL_KINDS = [
    'centermask-lite_mv2',
    'centermask-lite_v19-slim-dw',
    'centermask-lite_small',
    'centermask_r50-caffe',
    'centermask_x101-32x8d',
    'centermask_v39-dcn',
    'centermask-first-lite_mv2',
    'centermask-first_r50-caffe',
    'centermask-first_v39-dcn',
    'mask-rcnn_r50',
    'cascade-mask-rcnn_r50',
    'htc_r50',
    'scnet_r50',
    'centermask-rtmdet-s',
    'centermask-yolox-s',
    'centermask-gfl_r50',
]


@pytest.fixture
def data(tmp_path):
    """A folder as to_coco.py makes it, with images of two sizes."""
    root = tmp_path / 'own data'
    for split in ('train', 'val'):
        write_rectangles(root / split, num_images=4)
        (root / 'annotations').mkdir(exist_ok=True)
        content = json.loads((root / split / 'annotations.json').read_text())
        for image in content['images']:
            image['file_name'] = f'images/{image["file_name"]}'
        (root / f'annotations/instances_{split}.json').write_text(json.dumps(content))
    return root


def change_training(root, change):
    path = root / 'annotations/instances_train.json'
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def generate(data, model, **options):
    path = data.parent / 'my.py'
    options.setdefault('weights', 'random')
    made = GeneratedConfig(TrainingDataSummary.of_folder(data), find_zoo_config(model), **options)
    path.write_text(made.text(path))
    return Config.fromfile(path), made, path.read_text()


def choice(made, what):
    return next(item for item in made.choices if item.what == what)


@pytest.mark.parametrize('model', MODELS_OF_ALL_KINDS)
def test_a_config_of_every_kind_of_model_fits_the_data_and_trains_all_of_its_backbone(model, data):
    config, _, text = generate(data, model)
    init_default_scope('mmdet')
    assert len(text.splitlines()) < 120
    check_pretrained(config.model)
    check_class_counts(config.model, dict(num_classes=2), 'train_dataloader.dataset')
    with torch.device('meta'):
        built = MODELS.build(config.model)
    backbone = built.backbone
    backbone.train()
    assert all(parameter.requires_grad for parameter in backbone.parameters())
    norms = [module for module in backbone.modules() if isinstance(module, _BatchNorm)]
    assert norms and all(norm.training and norm.eps > 0 for norm in norms)
    assert not any('semantic_head' in name for name, _ in built.named_parameters())


@pytest.mark.parametrize('model', ['centermask-lite_v39', 'centermask-first_v39', 'htc_r50'])
def test_the_data_sets_of_a_config_give_samples_from_any_folder(model, data, monkeypatch, tmp_path):
    config, _, _ = generate(data, model)
    monkeypatch.chdir(tmp_path)
    init_default_scope('mmdet')
    for split in ('train', 'val', 'test'):
        dataset = DATASETS.build(config[f'{split}_dataloader'].dataset)
        sample = dataset[0]
        assert len(dataset) == 4
        assert dataset.metainfo['classes'] == ('green', 'blue')
        assert max(sample['data_samples'].img_shape) <= 320
        assert len(sample['data_samples'].gt_instances) == 2
    for split in ('val', 'test'):
        assert config[f'{split}_evaluator'].ann_file == str(data / 'annotations/instances_val.json')


def test_a_recipe_of_two_stages_keeps_its_shares_and_gets_the_size_of_the_data(data):
    config, made, _ = generate(data, 'centermask-rtmdet-s', epochs=30)
    assert choice(made, 'image size').value == 'square of 320'
    ema, switch = config.custom_hooks
    assert (ema.type, switch.type, switch.switch_epoch) == ('EMAHook', 'PipelineSwitchHook', 28)
    assert config.train_cfg.dynamic_intervals == [(28, 1)]
    assert '640' not in str(switch.switch_pipeline + config.test_pipeline)
    cosine = config.param_scheduler[1]
    assert (cosine.type, cosine.begin, cosine.end) == ('CosineAnnealingLR', 15, 30)
    # The published learning rate is that of 8 x 32 images.
    assert made.zoo.auto_scale_lr.base_batch_size == 256


@pytest.mark.skipif(find_spec('timm') is None, reason='needs timm: pip install timm')
@pytest.mark.parametrize(
    'model', ['centermask-lite_v39', 'mask-rcnn_r50', 'centermask-rtmdet-s', 'centermask-lite_small']
)
def test_a_backbone_of_timm_takes_the_place_of_the_zoos(model, data):
    config, made, _ = generate(data, model, backbone='resnet18')
    assert choice(made, 'model').value.endswith(' on resnet18')
    assert config.model.backbone.pretrained is False
    assert not config.model.backbone.norm_eval
    assert config.model.data_preprocessor.bgr_to_rgb
    init_default_scope('mmdet')
    with torch.device('meta'):
        detector = MODELS.build(config.model)
        sizes = [tuple(feat.shape[2:]) for feat in detector.extract_feat(torch.empty(1, 3, 64, 64))]
    assert (8, 8) in sizes
    config, _, _ = generate(data, model, backbone='resnet18', weights='auto')
    assert not config.load_from
    config, made, _ = generate(data, model, backbone='resnet18', weights='imagenet')
    assert config.model.backbone.pretrained is True
    assert config.model.backbone.norm_eval
    # The rate of AdamW where the zoo's config has one.
    expected = {'centermask-lite_small': 0.001, 'centermask-rtmdet-s': 0.004 / 8}.get(model, 0.0005)
    assert config.optim_wrapper.optimizer.lr == pytest.approx(expected)
    with pytest.raises(InputError, match='are needed'):
        generate(data, model, backbone='vit_tiny_patch16_224')


def test_training_images_are_cropped_and_others_are_not(data):
    config, made, _ = generate(data, 'centermask-lite_v39', short_side=256, crop=96)
    assert choice(made, 'crop').value == '96 pixels of a training image'
    steps = [step.type for step in config.train_pipeline]
    assert steps[2:6] == ['RandomChoiceResize', 'RandomCrop', 'FilterAnnotations', 'RandomFlip']
    assert 'RandomCrop' not in str(config.test_pipeline)
    init_default_scope('mmdet')
    dataset = DATASETS.build(config.train_dataloader.dataset)
    assert {dataset[i % len(dataset)]['inputs'].shape for i in range(8)} == {(3, 96, 96)}
    with pytest.raises(InputError, match='crops its training images already'):
        generate(data, 'centermask-rtmdet-s', crop=96)
    with pytest.raises(InputError, match='is 500: images have at most 427 pixels'):
        generate(data, 'centermask-lite_v39', short_side=256, crop=500)


def test_objects_whose_pixels_are_all_cut_off_are_no_objects(data):
    def only_two_corners(content):
        for item in content['annotations']:
            x, y, width, height = item['bbox']
            corners = (x, y), (x + width - 1, y + height - 1)
            item['segmentation'] = [[x, y, x + 1, y, x + 1, y + 1, x, y + 1] for x, y in corners]

    change_training(data, only_two_corners)
    config, _, _ = generate(data, 'centermask-lite_v39', short_side=256, crop=64)
    init_default_scope('mmdet')
    dataset = DATASETS.build(config.train_dataloader.dataset)
    np.random.seed(0)
    boxes = [dataset[i % len(dataset)]['data_samples'].gt_instances.bboxes.tensor for i in range(40)]
    assert any(len(part) == 0 for part in boxes) and any(len(part) for part in boxes)
    assert all((part[:, 2:] > part[:, :2]).all() for part in boxes)


@pytest.mark.parametrize(
    'model, expected', [('centermask-lite_v39', (600, 600)), ('mask-rcnn_r50', (1000, 600))], ids=str
)
def test_crowded_images_get_as_many_detections_and_proposals_as_they_need(model, expected, data):
    def crowd(content):
        first = content['annotations'][0]
        content['annotations'] += [dict(first, id=1000 + i) for i in range(398)]

    change_training(data, crowd)
    config, made, _ = generate(data, model)
    train, test = config.model.train_cfg, config.model.test_cfg
    found = (train.get('proposal', train.get('rpn_proposal')), test.get('bbox_head', test.get('rcnn')))
    assert tuple(limits.max_per_img for limits in found) == expected
    assert choice(made, 'detections').why == 'one training image has 400 objects'
    assert 'proposal_nums' not in config.val_evaluator

    change_training(data, lambda content: content['annotations'].extend(content['annotations'] * 2))
    config, _, _ = generate(data, model)
    test = config.model.test_cfg
    assert config.val_evaluator.proposal_nums[-1] == test.get('bbox_head', test.get('rcnn')).max_per_img == 1800


def test_a_few_objects_leave_the_zoos_numbers_of_detections(data):
    config, made, _ = generate(data, 'centermask-lite_v39')
    assert config.model.test_cfg.bbox_head.max_per_img == 50
    assert not any(item.what == 'detections' for item in made.choices)


def test_the_number_of_images_decides_the_schedule(data):
    few = generate(data, 'centermask-lite_v39')[1]
    statistics = TrainingDataSummary.of_folder(data)
    epochs = {}
    for count in (10, 100, 1000, 10_000, 100_000):
        many = TrainingDataSummary(**{**vars(statistics), 'num_images': count})
        made = GeneratedConfig(many, find_zoo_config('centermask-lite_v39'), weights='random')
        epochs[count] = made.epochs
        assert made.max_iters == pytest.approx(made.epochs * count / made.batch_size, rel=0.2)
    assert epochs == {10: 300, 100: 300, 1000: 120, 10_000: 48, 100_000: 48}
    assert few.max_iters == 300 and few.batch_size == 4


def test_the_zoo_schedule_keeps_its_shape_in_steps_and_in_epochs(data):
    config, made, _ = generate(data, 'centermask_v39', epochs=27)
    assert config.train_cfg.max_iters == made.max_iters == 27
    assert config.param_scheduler[1].milestones == [21, 25] and config.param_scheduler[1].end == 27
    config, _, _ = generate(data, 'mask-rcnn_r50', epochs=27)
    assert config.train_cfg.max_epochs == 27 and config.param_scheduler[1].milestones == [21, 25]
    assert config.default_hooks.checkpoint.save_best == 'coco/segm_mAP'


def test_the_learning_rate_follows_the_images_of_a_step(data, tmp_path):
    weights = tmp_path / 'checkpoints/vovnet39-ese_imagenet.pth'
    weights.parent.mkdir()
    torch.save(dict(state_dict={}), weights)
    init_default_scope('mmdet')
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        config, made, _ = generate(data, 'centermask-lite_v39', weights='auto', batch_size=4, num_processes=2)
    assert config.optim_wrapper.optimizer.type == 'SGD'
    assert config.optim_wrapper.optimizer.lr == pytest.approx(0.01 * 8 / 16)
    assert config.model.backbone.init_cfg.checkpoint == str(weights)
    assert config.model.backbone.norm_eval and not config.model.backbone.norm_cfg.requires_grad
    assert choice(made, 'start').value == 'ImageNet weights of the backbone'
    config, _, _ = generate(data, 'centermask-lite_v39', batch_size=16)
    assert config.optim_wrapper.optimizer == dict(type='AdamW', lr=0.001, weight_decay=0.05, fused=True)


def test_the_sizes_of_the_images_decide_theirs(data):
    statistics = TrainingDataSummary.of_folder(data)

    def sizes(width, height, model='centermask-lite_v39'):
        many = TrainingDataSummary(**{**vars(statistics), 'sizes': np.full((9, 2), (width, height), float)})
        made = GeneratedConfig(many, find_zoo_config(model), weights='random')
        return made.short_side, made.long_side

    assert sizes(4000, 3000) == (600, 1000)
    assert sizes(4000, 3000, 'centermask_v39') == (800, 1333)
    assert sizes(640, 480) == (480, 800)
    assert sizes(100, 100) == (320, 533)
    # A panorama keeps its short side, up to an aspect of three.
    assert sizes(2000, 1000) == (600, 1200)
    assert sizes(9000, 1000) == (600, 1800)


def test_the_sizes_of_test_time_augmentation_follow(data):
    config, _, _ = generate(data, 'centermask-lite_v39', short_side=300)
    resizes = config.tta_pipeline[1].transforms[0]
    assert [resize.scale for resize in resizes] == [(1000, side) for side in (200, 250, 300, 350, 400)]
    assert all(resize.type == 'Resize' and resize.keep_ratio for resize in resizes)
    assert not {'resize', 'scale'} & config.keys()


def test_objects_given_as_rle_are_learnt_as_bitmaps(data):
    assert not generate(data, 'centermask-lite_v39')[0].train_pipeline[1].poly2mask

    def to_rle(content):
        content['annotations'][0]['segmentation'] = dict(size=[64, 64], counts=[0, 100, 3996])

    change_training(data, to_rle)
    config, made, _ = generate(data, 'centermask-lite_v39')
    assert config.train_dataloader.dataset.pipeline[1].poly2mask
    assert choice(made, 'masks').value == 'bitmaps'


@pytest.mark.parametrize(
    ('model', 'kept'),
    [('centermask-lite_v39', 0), ('centermask-lite_v39', 3), ('centermask-rtmdet-s', 0), ('mask-rcnn_r50', 0)],
)
def test_objects_without_mask_are_learnt_from_their_boxes(model, kept, data):
    """Where some or all masks are missing, also in the validation data, the config passes the checks and trains."""
    for split in ('train', 'val'):
        path = data / f'annotations/instances_{split}.json'
        content = json.loads(path.read_text())
        for annotation in content['annotations'][kept:]:
            annotation['segmentation'] = []
        path.write_text(json.dumps(content))
    config, made, _ = generate(data, model, crop=None if kept or 'rtmdet' in model else 96)
    assert choice(made, 'masks').value == f'{kept} of 8 objects have one'
    config.model.backbone.init_cfg = None
    check_inputs(config, 'train')
    check_inputs(config, 'test')
    init_default_scope('mmdet')
    built = MODELS.build(config.model)
    assert built.roi_head.mask_head.loss_boxes.warmup_iters == max(1, round(made.max_iters / 3))
    if 'centermask' in model:
        assert (built.roi_head.mask_iou_head is None) == (kept == 0)
    dataset = DATASETS.build(config.train_dataloader.dataset)
    batch = {key: [dataset[i][key] for i in range(2)] for key in ('inputs', 'data_samples')}
    truth = built.data_preprocessor(batch, True)['data_samples'][0].gt_instances
    assert truth.has_mask.sum() == min(kept, 2)
    # Not measured by masks that are missing.
    assert len(truth) and (truth.bboxes[:, 2:] > truth.bboxes[:, :2]).all()
    assert len(DATASETS.build(config.val_dataloader.dataset)[0]['data_samples'].gt_instances) == 2


def test_models_with_several_mask_heads_are_refused_for_objects_without_mask(data):
    change_training(data, lambda content: content['annotations'][0].pop('segmentation'))
    with pytest.raises(InputError, match='htc_r50.*: 1 of 8 objects have a box and no mask, .*: choose another'):
        generate(data, 'htc_r50')


def test_rare_classes_and_images_without_objects_are_mentioned(data):
    def remove(content):
        content['annotations'] = [item for item in content['annotations'] if item['image_id'] != 1]

    change_training(data, remove)
    notes = [item.value for item in generate(data, 'centermask-lite_v39')[1].choices if item.what == 'note']
    assert '1 images without objects are not used' in notes
    assert "class 'green' has 3 objects" in notes


def test_classes_that_the_image_size_makes_too_small_are_mentioned(data):
    def shrink(content):
        for item in content['annotations']:
            if item['category_id'] == 2:
                item['area'] = 9

    change_training(data, shrink)
    notes = [item for item in generate(data, 'centermask-lite_v39')[1].choices if item.what == 'note']
    assert [note.value for note in notes if 'small' in note.value] == ["class 'blue' has small objects"]
    assert any('below 15 pixels' in note.why for note in notes)


def test_the_small_model_starts_from_the_weights_of_the_package_and_keeps_the_size_of_small_images(data):
    config, made, _ = generate(data, 'centermask-lite_small', weights='auto')
    assert choice(made, 'start').why.startswith('they come with the package; 173 of 179 weights')
    assert config.load_from == made.weights.path == str(config_root() / 'centermask_lite/centermask-lite_demo-14k.pth')
    # 40 cells of stride 4, where the other models need 320 pixels.
    assert made.short_side == 160
    config, _, _ = generate(data, 'centermask-lite_small', weights='random')
    assert config.load_from is None


def test_a_checkpoint_of_the_same_model_is_the_start_and_another_is_refused(data, tmp_path, monkeypatch):
    init_default_scope('mmdet')
    model = MODELS.build(Config.fromfile(find_zoo_config('centermask-lite_v19-slim-dw')).model)
    path = tmp_path / 'trained.pth'
    torch.save(dict(state_dict=model.state_dict()), path)
    # A shell leaves the ~ of --load-from=~/trained.pth.
    monkeypatch.setenv('HOME', str(tmp_path))
    config, made, _ = generate(data, 'centermask-lite_v19-slim-dw', load_from='~/trained.pth')
    assert config.load_from == str(path)
    assert config.model.backbone.init_cfg is None and config.model.backbone.norm_eval
    assert 'weights are taken over' in choice(made, 'start').why
    with pytest.raises(InputError, match='weights of this model: give a checkpoint of the same --model'):
        generate(data, 'centermask-lite_mv2', load_from=str(path))
    with pytest.raises(InputError, match='does not exist'):
        generate(data, 'centermask-lite_mv2', load_from=str(tmp_path / 'absent.pth'))


def test_what_the_data_lack_is_named(data, tmp_path):
    with pytest.raises(InputError, match='does not exist'):
        TrainingDataSummary.of_folder(tmp_path / 'absent')
    (data / 'annotations/instances_val.json').unlink()
    with pytest.raises(InputError, match='no annotations/instances_val.json: make it with'):
        TrainingDataSummary.of_folder(data)


def test_a_config_inside_the_clone_inherits_by_a_path_that_moves_with_it(data):
    base = find_zoo_config('centermask-lite_v39')
    made = GeneratedConfig(TrainingDataSummary.of_folder(data), base, weights='random')
    inside = made.text(base.parents[2] / 'configs/mine/my.py')
    assert inside.startswith(f"_base_ = '../centermask_lite/{base.name}'")
    assert made.text(data / 'my.py').startswith(f"_base_ = '{base}'")


@pytest.mark.parametrize('option', ['batch_size', 'num_processes', 'epochs', 'short_side', 'crop'])
def test_numbers_out_of_range_are_named(option, data):
    with pytest.raises(InputError, match='is 0: give at least'):
        generate(data, 'centermask-lite_v39', **{option: 0})
