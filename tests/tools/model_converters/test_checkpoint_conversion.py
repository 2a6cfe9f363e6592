import hashlib
import os
import pickle
import runpy
import sys

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from support.converter import CONVERTERS, checkpoint_conversion
from support.layouts import CONFIGS, LAYOUTS, PANOPTIC_CONFIGS, SMALL, backbone_of, published_layout
from support.tool import run_tool

from mmdet_sag import __version__
from mmdet_sag.checkpoints import zoo
from mmdet_sag.errors import InputError

convert_checkpoint = checkpoint_conversion.convert_checkpoint
TOOL = CONVERTERS / 'centermask2_to_mmdet.py'


def values(state_dict):
    return sorted(value.flatten()[0].item() for key, value in state_dict.items() if 'num_batches_tracked' not in key)


def convert(tmp_path, content, **options):
    torch.save(content, tmp_path / 'source.pth')
    conversion = convert_checkpoint(tmp_path / 'source.pth', tmp_path / 'converted.pth', **options)
    return conversion, torch.load(tmp_path / 'converted.pth', weights_only=True)


def build_and_load(checkpoint):
    """Build the model of the config in a checkpoint and load it strictly."""
    with torch.device('meta'):
        model = MODELS.build(Config.fromstring(checkpoint['meta']['cfg'], '.py').model)
    model.load_state_dict(checkpoint['state_dict'], strict=True, assign=True)


def refusal(tmp_path, content, **options):
    with pytest.raises(InputError) as error:
        convert(tmp_path, content, **options)
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


@pytest.mark.parametrize('layout', CONFIGS)
def test_a_published_checkpoint_fits_its_config_strictly(layout, tmp_path):
    source = published_layout(layout)
    conversion, checkpoint = convert(tmp_path, {'model': source, 'iteration': 270000})
    assert conversion.model == checkpoint['meta']['config'] == CONFIGS[layout]
    assert values(checkpoint['state_dict']) == values(source)

    build_and_load(checkpoint)


def test_no_published_layout_is_left_out():
    assert set(LAYOUTS) == set(CONFIGS) | set(PANOPTIC_CONFIGS)


@pytest.mark.parametrize('layout', PANOPTIC_CONFIGS)
def test_a_published_panoptic_checkpoint_fits_its_config_strictly(layout, tmp_path):
    source = published_layout(layout)
    conversion, checkpoint = convert(tmp_path, {'model': source, 'iteration': 270000})
    assert conversion.kind == 'CenterMask2 panoptic model'
    assert conversion.model == checkpoint['meta']['config'] == PANOPTIC_CONFIGS[layout]
    assert values(checkpoint['state_dict']) == values(source)
    assert len(checkpoint['meta']['dataset_meta']['classes']) == 133
    build_and_load(checkpoint)


def test_the_semantic_logits_of_things_become_the_last(tmp_path):
    source = published_layout('panoptic_centermask_R_50_FPN_ms_3x')
    source['sem_seg_head.predictor.bias'] = torch.arange(54.0)
    _, checkpoint = convert(tmp_path, source)
    assert checkpoint['state_dict']['semantic_head.conv_logits.bias'].tolist() == [*range(1, 54), 0]


def test_a_panoptic_model_may_have_other_class_counts(tmp_path):
    conversion, checkpoint = convert(tmp_path, published_layout('panoptic_centermask_V_39_eSE_FPN_ms_3x', 7, 4))
    assert conversion.num_classes == 7
    assert 'dataset_meta' not in checkpoint['meta']
    assert any('no class names' in note for note in conversion.notes)
    model = Config.fromstring(checkpoint['meta']['cfg'], '.py').model
    for head in (model.semantic_head, model.panoptic_fusion_head):
        assert (head.num_things_classes, head.num_stuff_classes) == (7, 4)
    build_and_load(checkpoint)


def test_missing_parameters_of_a_panoptic_model_are_listed(tmp_path):
    source = published_layout('panoptic_centermask_V_39_eSE_FPN_ms_3x')
    del source['sem_seg_head.p5.4.norm.bias']
    message = refusal(tmp_path, source)
    assert PANOPTIC_CONFIGS['panoptic_centermask_V_39_eSE_FPN_ms_3x'] in message
    assert '1 missing: semantic_head.conv_upsample_layers.3.conv.2.gn.bias' in message


def test_the_meta_tells_where_the_weights_are_from(tmp_path):
    _, checkpoint = convert(tmp_path, published_layout())
    meta = checkpoint['meta']
    assert meta['source'] == 'source.pth'
    assert meta['source_sha256'] == hashlib.sha256((tmp_path / 'source.pth').read_bytes()).hexdigest()
    assert meta['mmdet_sag_version'] == __version__
    assert 'CC BY-NC' in meta['licence']
    assert meta['dataset_meta']['classes'][0] == 'person'
    assert len(meta['dataset_meta']['classes']) == 80


def test_another_class_count_gets_no_class_names(tmp_path):
    conversion, checkpoint = convert(tmp_path, published_layout(num_classes=7))
    assert conversion.num_classes == 7
    assert 'dataset_meta' not in checkpoint['meta']
    assert any('no class names' in note for note in conversion.notes)
    build_and_load(checkpoint)


def test_names_may_have_the_prefix_of_a_wrapped_model(tmp_path):
    conversion, _ = convert(tmp_path, {f'module.{key}': value for key, value in published_layout().items()})
    assert conversion.model == CONFIGS[SMALL]


def test_numpy_arrays_are_converted_like_tensors(tmp_path):
    source = {key: np.broadcast_to(value.numpy().flat[0], value.shape) for key, value in backbone_of(SMALL).items()}
    (tmp_path / 'source.pkl').write_bytes(pickle.dumps({'model': source, '__author__': 'someone'}, protocol=2))
    convert_checkpoint(tmp_path / 'source.pkl', tmp_path / 'converted.pth')
    converted = torch.load(tmp_path / 'converted.pth', weights_only=True)['state_dict']
    assert values(converted) == values(backbone_of(SMALL))


def test_what_is_dropped_is_listed_with_the_reason(tmp_path):
    source = {
        **published_layout(),
        'pixel_mean': torch.tensor([103.53, 116.28, 123.675]).view(3, 1, 1),
        'pixel_std': torch.ones(3, 1, 1),
        'proposal_generator.anchor_generator.cell_anchors.0': torch.zeros(3, 4),
        'backbone.bottom_up.stem.stem_1/norm.num_batches_tracked': torch.tensor(5),
    }
    conversion, _ = convert(tmp_path, {'model': source, 'optimizer': {'state': {}}, 'iteration': 9})
    dropped = {key for keys in conversion.dropped.values() for key in keys}
    assert dropped == {'optimizer', 'iteration'} | set(source) - set(published_layout())
    for key in dropped:
        assert key in str(conversion)
    assert 'set model.data_preprocessor' not in str(conversion)


def test_another_pixel_mean_than_the_configs_is_pointed_out(tmp_path):
    conversion, _ = convert(tmp_path, {**published_layout(), 'pixel_mean': torch.tensor([1.0, 2.0, 3.0])})
    assert any('set model.data_preprocessor.mean' in note for note in conversion.notes)


def test_missing_unmapped_and_misshapen_parameters_are_listed(tmp_path):
    source = published_layout()
    del source['roi_heads.mask_head.spatialAtt.conv.weight']
    source['roi_heads.extra_head.weight'] = torch.zeros(3)
    source['proposal_generator.fcos_head.ctrness.weight'] = torch.zeros(1, 128, 5, 5)
    message = refusal(tmp_path, source)
    assert CONFIGS[SMALL] in message
    assert '1 missing: roi_head.mask_head.convs.2.conv.weight' in message
    assert '1 unmapped: roi_heads.extra_head.weight' in message
    assert '1 of another shape: bbox_head.conv_centerness.weight (1, 128, 5, 5) instead of (1, 128, 3, 3)' in message
    assert not (tmp_path / 'converted.pth').exists()


def test_a_long_list_of_parameters_is_cut_off(tmp_path):
    source = {key: value for key, value in published_layout().items() if 'fcos_head' not in key}
    message = refusal(tmp_path, source)
    assert '27 missing: ' in message
    assert message.count('bbox_head') == 10


def test_two_names_of_one_parameter_are_refused(tmp_path):
    source = published_layout()
    source['bbox_head.conv_cls.bias'] = source['proposal_generator.fcos_head.cls_logits.bias']
    assert 'two of its keys' in refusal(tmp_path, source)


@pytest.mark.parametrize(
    ('content', 'reason'),
    [
        ({'model': {}}, 'neither'),
        ([torch.zeros(1)], 'holds no weights by name, but a list'),
        ({'fc.weight': torch.zeros(2, 2)}, 'first keys: fc.weight'),
        ({'backbone.stem.0.conv.weight': torch.zeros(1), 'bbox_head.conv_cls.bias': torch.zeros(1)}, 'already'),
        ({'roi_heads.mask_head.deconv.bias': torch.zeros(3, dtype=torch.int64)}, 'no floating-point numbers'),
    ],
)
def test_other_contents_are_refused(content, reason, tmp_path):
    assert reason in refusal(tmp_path, content)


@pytest.mark.parametrize('prefix', ['', 'backbone.bottom_up.', 'module.'])
def test_imagenet_weights_of_the_authors_become_those_of_a_backbone(prefix, tmp_path):
    source = backbone_of('centermask_V_39_eSE_FPN_ms_3x')
    conversion, checkpoint = convert(tmp_path, {'state_dict': {prefix + key: v for key, v in source.items()}})
    assert conversion.model == 'V-39 backbone'
    assert values(checkpoint['state_dict']) == values(source)
    with torch.device('meta'):
        model = MODELS.build(dict(type='VoVNet', arch='V-39'))
    model.load_state_dict(checkpoint['state_dict'], strict=True, assign=True)


def test_the_classifier_of_imagenet_weights_is_dropped(tmp_path):
    source = {
        **backbone_of('centermask_lite_Mv2_FPN_ms_4x'),
        'features.18.0.weight': torch.zeros(1280, 320, 1, 1),
        'classifier.1.weight': torch.zeros(1000, 1280),
    }
    conversion, checkpoint = convert(tmp_path, source)
    assert conversion.model == 'MobileNetV2 backbone'
    assert {key for keys in conversion.dropped.values() for key in keys} == {
        'features.18.0.weight',
        'classifier.1.weight',
    }
    with torch.device('meta'):
        model = MODELS.build(dict(type='HeadlessMobileNetV2'))
    model.load_state_dict(checkpoint['state_dict'], strict=True, assign=True)


@pytest.mark.parametrize('dcn', [None, dict(type='DCNv2', deform_groups=1)])
def test_the_config_of_a_backbone_reads_converted_imagenet_weights(dcn, tmp_path):
    source = {key: torch.rand(value.shape) for key, value in backbone_of('centermask_V_39_eSE_FPN_ms_3x').items()}
    convert(tmp_path, source)
    config = Config.fromfile(zoo.config_root() / CONFIGS['centermask_V_39_eSE_FPN_ms_3x']).model.backbone
    config.update(init_cfg=dict(config.init_cfg, checkpoint=str(tmp_path / 'converted.pth')), dcn=dcn)
    model = MODELS.build(config)
    model.init_weights()
    assert torch.equal(model.stem[0].conv.weight, source['stem.stem_1/conv.weight'])
    deepest = model.stages[3][2].convs[4]
    assert torch.equal(deepest.conv.weight, source['stage5.OSA5_2.layers.4.OSA5_2_4/conv.weight'])
    assert torch.equal(deepest.bn.running_var, source['stage5.OSA5_2.layers.4.OSA5_2_4/norm.running_var'])
    if dcn:
        assert not deepest.conv.conv_offset.weight.any()


def test_an_existing_file_is_replaced_only_on_demand(tmp_path):
    (tmp_path / 'converted.pth').write_text('precious')
    assert '--force' in refusal(tmp_path, published_layout())
    assert (tmp_path / 'converted.pth').read_text() == 'precious'
    conversion, _ = convert(tmp_path, published_layout(), force=True)
    assert conversion.model == CONFIGS[SMALL]


def test_the_source_is_never_replaced(tmp_path):
    torch.save(published_layout(), tmp_path / 'source.pth')
    (tmp_path / 'link.pth').symlink_to('source.pth')
    for name in ('source.pth', 'link.pth'):
        with pytest.raises(InputError, match='source itself'):
            convert_checkpoint(tmp_path / 'source.pth', tmp_path / name, force=True)


def test_a_missing_source_and_a_folder_as_destination_are_refused(tmp_path):
    with pytest.raises(InputError, match='no such file'):
        convert_checkpoint(tmp_path / 'absent.pth', tmp_path / 'converted.pth')
    torch.save(published_layout(), tmp_path / 'source.pth')
    with pytest.raises(InputError, match='is a folder'):
        convert_checkpoint(tmp_path / 'source.pth', tmp_path)
    with pytest.raises(InputError, match='cannot be written'):
        convert_checkpoint(tmp_path / 'source.pth', tmp_path / 'source.pth' / 'converted.pth')


@pytest.mark.parametrize('step', ['save', 'fsync', 'replace'])
def test_a_failure_while_writing_leaves_the_old_file_and_no_other(step, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError(28, 'No space left on device')

    (tmp_path / 'converted.pth').write_text('precious')
    torch.save(backbone_of(SMALL), tmp_path / 'source.pth')
    monkeypatch.setattr(
        *{'save': (checkpoint_conversion.torch, 'save'), 'fsync': (os, 'fsync'), 'replace': (os, 'replace')}[step], fail
    )
    with pytest.raises(InputError, match='No space left on device'):
        convert_checkpoint(tmp_path / 'source.pth', tmp_path / 'converted.pth', force=True)
    assert (tmp_path / 'converted.pth').read_text() == 'precious'
    assert sorted(path.name for path in tmp_path.iterdir()) == ['converted.pth', 'source.pth']


def test_the_folder_of_the_destination_is_made(tmp_path):
    torch.save(backbone_of(SMALL), tmp_path / 'source.pth')
    convert_checkpoint(tmp_path / 'source.pth', tmp_path / 'new/folder/converted.pth')
    assert (tmp_path / 'new/folder/converted.pth').is_file()


def test_configs_are_found_in_an_installed_package_and_in_a_clone(tmp_path, monkeypatch):
    package = tmp_path / 'mmdet_sag'
    monkeypatch.setattr(zoo, '__file__', str(package / 'checkpoints/zoo.py'))
    with pytest.raises(InputError, match='no configs'):
        zoo.config_root()
    (tmp_path / 'configs').mkdir()
    assert zoo.config_root() == tmp_path.resolve() / 'configs'
    (package / '.mim/configs').mkdir(parents=True)
    assert zoo.config_root() == package.resolve() / '.mim/configs'


def test_the_tool_reports_what_it_did(tmp_path):
    torch.save({'model': backbone_of(SMALL), 'optimizer': {}}, tmp_path / 'source.pth')
    done = run_tool(TOOL, 'source.pth', 'converted.pth', cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert 'V-19-slim-dw backbone' in done.stdout
    assert 'dropped: optimizer' in done.stdout
    assert 'CC BY-NC' in done.stdout
    assert (tmp_path / 'converted.pth').is_file()


def test_the_tool_refuses_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['tool', str(tmp_path / 'source.pth'), str(tmp_path / 'converted.pth')])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(TOOL), run_name='__main__')
    assert stop.value.code == 2
    assert capsys.readouterr().err == f'error: {tmp_path}/source.pth: no such file; give the checkpoint to convert\n'
