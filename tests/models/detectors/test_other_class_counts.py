import logging

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.logging import MMLogger
from mmengine.runner import Runner, load_checkpoint
from support.tiny import tiny_config

from mmdet_sag.errors import InputError

CLASS_LAYERS = ('bbox_head.conv_cls.', 'roi_head.mask_head.conv_logits.', 'roi_head.mask_iou_head.fc_mask_iou.')


def build(num_classes, seed):
    torch.manual_seed(seed)
    model = MODELS.build(tiny_config(num_classes).model)
    model.init_weights()
    return model


@pytest.fixture
def checkpoint(tmp_path):
    """A checkpoint of three classes."""
    state_dict = build(3, seed=0).state_dict()
    torch.save(dict(meta={}, state_dict=state_dict), tmp_path / 'checkpoint.pth')
    return str(tmp_path / 'checkpoint.pth'), state_dict


@pytest.fixture
def messages(request):
    """What is logged, as a list that grows."""
    logged = []
    handler = logging.Handler()
    handler.emit = lambda record: logged.append(record.getMessage())
    logger = MMLogger.get_instance(request.node.name)
    logger.addHandler(handler)
    yield logged
    logger.removeHandler(handler)


def state_of(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


def assert_only_class_layers_are_initial(model, initial, loaded):
    for key, value in model.state_dict().items():
        expected = initial if key.startswith(CLASS_LAYERS) else loaded
        assert torch.equal(value, expected[key]), key


def test_all_but_the_class_layers_is_loaded(checkpoint):
    path, loaded = checkpoint
    model = build(5, seed=1)
    initial = state_of(model)
    load_checkpoint(model, path)
    assert_only_class_layers_are_initial(model, initial, loaded)


def test_a_run_that_loads_from_the_checkpoint_starts_so(checkpoint, tmp_path):
    path, loaded = checkpoint
    config = tiny_config(5)
    runner = Runner(model=config.model, work_dir=str(tmp_path / 'run'), load_from=path, default_scope='mmdet')
    runner.model.init_weights()
    initial = state_of(runner.model)
    runner.load_or_resume()
    assert_only_class_layers_are_initial(runner.model, initial, loaded)


def test_one_warning_tells_which_layers_keep_their_initial_weights(checkpoint, messages):
    load_checkpoint(build(5, seed=1), checkpoint[0])
    about_classes = [message for message in messages if '3 classes' in message]
    assert len(about_classes) == 1
    for layer in CLASS_LAYERS:
        assert layer[:-1] in about_classes[0]


def test_the_same_class_count_is_loaded_whole_and_without_a_warning(checkpoint, messages):
    path, loaded = checkpoint
    model = build(3, seed=1)
    load_checkpoint(model, path, strict=True)
    for key, value in model.state_dict().items():
        assert torch.equal(value, loaded[key]), key
    assert not any('classes' in message for message in messages)


def test_strict_loading_of_another_class_count_still_fails(checkpoint):
    path, loaded = checkpoint
    with pytest.raises(RuntimeError, match=r'Missing key.*conv_cls'):
        build(5, seed=1).load_state_dict(loaded)
    with pytest.raises(RuntimeError, match='conv_cls'):
        load_checkpoint(build(5, seed=1), path, strict=True)


def test_other_differences_of_shape_are_not_taken_for_class_counts(checkpoint):
    _, loaded = checkpoint
    loaded['bbox_head.conv_cls.weight'] = torch.zeros(5, 32, 1, 1)
    with pytest.raises(RuntimeError, match=r'size mismatch for bbox_head.conv_cls.weight'):
        build(3, seed=1).load_state_dict(loaded, strict=False)


@pytest.mark.parametrize('as_list', [False, True])
def test_missing_pretrained_weights_are_named_with_the_remedy(as_list):
    config = tiny_config().model
    pretrained = dict(type='Pretrained', checkpoint='checkpoints/absent.pth')
    config.backbone.init_cfg = [dict(type='Kaiming', layer='Conv2d'), pretrained] if as_list else pretrained
    with pytest.raises(InputError, match='checkpoints/absent.pth.*docs/checkpoints.md.*init_cfg=None'):
        MODELS.build(config).init_weights()
