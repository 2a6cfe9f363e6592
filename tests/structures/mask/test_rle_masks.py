"""Encoded masks stand where MMDetection has a tensor of bitmaps."""

import copy
import pickle
from types import SimpleNamespace

import cv2
import mmengine
import numpy as np
import pycocotools.mask as mask_utils
import pytest
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from mmdet.apis import DetInferencer
from mmdet.evaluation import DumpDetResults, LVISMetric
from mmdet.structures import DetDataSample
from mmdet.structures.mask import encode_mask_results
from mmdet.visualization import DetLocalVisualizer
from mmengine.evaluator import Evaluator
from mmengine.structures import InstanceData
from mmengine.utils import digit_version
from torchvision.ops import masks_to_boxes
from torchvision.utils import draw_segmentation_masks

from mmdet_sag.evaluation import DumpRLEResults
from mmdet_sag.structures.mask import RLEMasks, place_rle

HEIGHT, WIDTH = 40, 60


@pytest.fixture
def bitmaps():
    return torch.from_numpy(np.random.default_rng(0).random((5, HEIGHT, WIDTH)) > 0.7)


@pytest.fixture
def masks(bitmaps):
    return RLEMasks(encode_mask_results(bitmaps.numpy()), HEIGHT, WIDTH)


def sample_of(masks):
    corners = torch.arange(5.0)[:, None] * 4
    instances = InstanceData(
        bboxes=torch.cat([corners, corners, corners + 10, corners + 10], dim=1),
        scores=torch.linspace(0.1, 0.9, 5),
        labels=torch.arange(5) % 2,
        masks=masks,
    )
    meta = dict(img_id=7, ori_shape=(HEIGHT, WIDTH), img_path='image.jpg')
    return DetDataSample(metainfo=meta, pred_instances=instances)


@pytest.mark.parametrize(
    'index',
    [
        slice(1, 4),
        slice(None, None, 2),
        [3, 0],
        [],
        np.array([4, 4]),
        torch.tensor([2, -1]),
        torch.tensor([], dtype=torch.long),
        torch.tensor([True, False, True, False, False]),
        torch.zeros(5, dtype=torch.bool),
    ],
    ids=str,
)
def test_they_are_indexed_like_a_tensor(masks, bitmaps, index, device):
    masks, bitmaps = masks.to(device), bitmaps.to(device)
    index = index.to(device) if isinstance(index, torch.Tensor) else index
    expected = bitmaps[index if isinstance(index, (slice, torch.Tensor)) else torch.as_tensor(index).long()]
    assert masks[index].shape == expected.shape
    torch.testing.assert_close(masks[index].to_tensor(), expected)


def test_one_mask_is_coco_s_dict_and_a_bitmap(masks, bitmaps):
    assert masks[1] == encode_mask_results(bitmaps.numpy())[1] and masks[1] != masks[2]
    assert mask_utils.area(masks[1]) == bitmaps[1].sum()
    np.testing.assert_array_equal(masks[1][3:9, 5], bitmaps[1, 3:9, 5])
    np.testing.assert_array_equal(masks[-1].decode(), bitmaps[-1])


USES = {
    'asarray': lambda masks: np.asarray(masks),
    'array of a type': lambda masks: np.array(masks, dtype=np.uint8),
    'stack of arrays': lambda masks: np.stack([mask.cpu().numpy() for mask in masks]),
    'stack of masks': lambda masks: np.stack(list(masks)),
    'astype': lambda masks: np.stack([mask.numpy().astype(np.float32) for mask in masks]),
    'as_tensor': torch.as_tensor,
    'tensor of a type': lambda masks: torch.tensor(masks, dtype=torch.float32),
    'torch.stack': lambda masks: torch.stack(list(masks)),
    'torch.cat': lambda masks: torch.cat([masks, masks[1:]]),
    'sum': lambda masks: [int(masks[i].sum()) for i in range(len(masks))],
    'sum of pixels': lambda masks: masks.sum(dim=(1, 2)),
    'float': lambda masks: masks.float().mean(),
    'bool': lambda masks: masks.bool(),
    'to a type': lambda masks: masks.to(torch.uint8),
    'to a device and a type': lambda masks: masks.to('cpu', torch.float16),
    'and': lambda masks: masks & masks[0],
    'and of a tensor': lambda masks: torch.ones(5, HEIGHT, WIDTH, dtype=torch.bool) & masks,
    'or': lambda masks: masks[0] | masks[1],
    'not': lambda masks: ~masks[0],
    'times': lambda masks: 2 * masks[2] + 1,
    'image of floats times a mask': lambda masks: torch.full((HEIGHT, WIDTH), 0.5) * masks[0],
    'equal': lambda masks: masks == masks[3],
    'any': lambda masks: torch.any(masks.flatten(1), dim=1),
    'where': lambda masks: torch.where(masks[0], 1.0, 0.0),
    'interpolate': lambda masks: F.interpolate(masks[:, None].float(), scale_factor=2),
    'index of a scalar tensor': lambda masks: torch.stack([torch.as_tensor(masks[i]) for i in torch.arange(2)]),
    'index of many dimensions': lambda masks: masks[1:, 3:9, 5],
    'index of none': lambda masks: masks[None],
    'index of itself': lambda masks: masks[masks],
    'part of a mask': lambda masks: masks[1][3:9, 5],
    'index of an image': lambda masks: torch.arange(HEIGHT * WIDTH).view(HEIGHT, WIDTH)[masks[0]],
    'index of an array': lambda masks: np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH)[masks[0]],
    'rows': lambda masks: torch.stack(list(masks[0])),
    'size': lambda masks: [*masks.size(), masks.ndim, *masks.shape, *masks[0].shape, len(masks), len(masks[0])],
    'numel': lambda masks: masks.shape.numel() + masks[:0].numel(),
    'numpy': lambda masks: masks.detach().cpu().numpy(),
    'joined with none': lambda masks: (
        InstanceData.cat([InstanceData(masks=masks[:2]), InstanceData(masks=masks[:0])]).masks
    ),
    'boxes': lambda masks: masks_to_boxes(masks),
    'picture': lambda masks: draw_segmentation_masks(
        torch.zeros(3, HEIGHT, WIDTH, dtype=torch.uint8), masks, colors='red'
    ),
    'plot': lambda masks: AxesImage(Figure().add_subplot(), data=masks[0]).get_array(),
    'contours': lambda masks: len(cv2.findContours(np.asarray(masks[0], np.uint8), 0, 2)[0]),
    'copies': lambda masks: copy.deepcopy(masks).clone(),
}


def pixels_of(result):
    if isinstance(result, RLEMasks):
        result = result.to_tensor()
    return result.cpu().numpy() if isinstance(result, torch.Tensor) else np.asarray(result)


# torch.as_tensor, and what calls it: indices of a tensor.
USES_DLPACK = ('as_tensor', 'tensor of a type', 'index of a scalar tensor', 'index of an image', 'picture')
# NumPy takes no tensor of a GPU.
OF_NUMPY = ('asarray', 'array of a type', 'stack of masks', 'astype', 'index of an array', 'plot', 'contours')


@pytest.mark.parametrize('use', USES)
def test_they_do_what_a_tensor_of_bitmaps_does(use, masks, bitmaps, device, default_device):
    if use in USES_DLPACK and digit_version(torch.__version__) < digit_version('2.6'):
        pytest.skip('torch.as_tensor reads other types than its own since PyTorch 2.6')
    if use in OF_NUMPY and device != 'cpu':
        pytest.skip('NumPy takes no tensor of a GPU')
    expected, actual = USES[use](bitmaps.to(device)), USES[use](masks.to(device))
    assert isinstance(actual, RLEMasks) or type(actual) is type(expected)
    assert pixels_of(actual).dtype == pixels_of(expected).dtype
    np.testing.assert_array_equal(pixels_of(actual), pixels_of(expected))


def test_pixels_are_set_as_in_a_tensor(masks, bitmaps, device, default_device):
    masks, bitmaps = masks.to(device), bitmaps.to(device)
    chosen = torch.tensor([True, False, True, False, True])
    for both in (masks, bitmaps):
        kept = both[chosen]
        kept[0] = False
        both[1:3, :10] = True
        both[4][:, 7:9] = False
        both[both[3][None].expand(5, -1, -1) & torch.tensor([False] * 4 + [True])[:, None, None]] = True
    torch.testing.assert_close(masks.to_tensor(), bitmaps)
    assert masks[1] == encode_mask_results(bitmaps.cpu().numpy())[1]


def test_what_would_change_a_decoded_copy_is_refused(masks):
    for part in (masks, masks[0]):
        with pytest.raises(AttributeError, match=r'zero_ would change a decoded copy .* masks.to_tensor\(\)'):
            part.zero_()
    with pytest.raises(AttributeError, match="'RLEMasks' object has no attribute 'polygons'"):
        getattr(masks, 'polygons')  # noqa: B009


def test_their_device_is_where_they_are_decoded(masks):
    moved = masks.to('meta')
    assert moved.device.type == moved[0].device.type == moved[:2].device.type == moved[[1]].device.type == 'meta'
    assert moved.float().device.type == (moved & moved[0]).device.type == 'meta'
    torch.testing.assert_close(moved.cpu().to_tensor(), masks.to_tensor())


def test_instance_data_selects_joins_and_moves_them(masks, bitmaps, device):
    instances, bitmaps = sample_of(masks).pred_instances.to(device), bitmaps.to(device)
    for index in (instances.scores > 0.4, torch.tensor([3, 1], device=device), slice(0, 2), 2):
        chosen = instances[index]
        torch.testing.assert_close(chosen.masks.to_tensor(), bitmaps[index].reshape(-1, HEIGHT, WIDTH))
    assert len(InstanceData.cat([instances[:2], instances[4:]]).masks) == 3
    assert len(instances.cpu().numpy().to('cpu').masks) == 5
    assert len(pickle.loads(pickle.dumps(instances)).masks) == 5


def test_masks_of_images_of_different_sizes_are_not_joined(masks):
    with pytest.raises(ValueError, match=r'different sizes \[\(1, 2\), \(40, 60\)\]'):
        RLEMasks.cat([masks, RLEMasks([], 1, 2)])


def test_a_dump_holds_plain_dicts_as_mmdetections_does(masks, bitmaps, tmp_path):
    dumps = []
    for metric, stored in ((DumpDetResults, bitmaps), (DumpDetResults, masks), (DumpRLEResults, masks)):
        file = tmp_path / f'{len(dumps)}.pkl'
        evaluator = Evaluator([metric(out_file_path=str(file))])
        evaluator.process([sample_of(stored)])
        evaluator.evaluate(1)
        dumps.append(mmengine.load(file)[0]['pred_instances']['masks'])
        assert all(type(mask) is dict for mask in dumps[-1])
    assert dumps[0] == dumps[1] == dumps[2]


def test_lvis_gets_the_masks_that_bitmaps_give(masks, bitmaps):
    collected = []
    for stored in (bitmaps, masks):
        metric = SimpleNamespace(results=[], _lvis_api=object())
        LVISMetric.process(metric, {}, [sample_of(stored).to_dict()])
        collected.append(metric.results[0][1]['masks'])
    assert collected[0] == collected[1]


def test_pictures_and_the_inferencers_results_are_those_of_bitmaps(masks, bitmaps):
    pictures, results = [], []
    for stored in (bitmaps, masks):
        # It jitters the colours.
        np.random.seed(0)
        visualizer = DetLocalVisualizer()
        visualizer.dataset_meta = dict(classes=('a', 'b'), palette=[(255, 0, 0), (0, 0, 255)])
        sample = sample_of(stored)
        visualizer.add_datasample('x', np.zeros((HEIGHT, WIDTH, 3), np.uint8), sample, draw_gt=False)
        pictures.append(visualizer.get_image())
        results.append(DetInferencer.pred2dict(SimpleNamespace(num_predicted_imgs=0), sample))
    np.testing.assert_array_equal(*pictures)
    assert pictures[0].any()
    assert results[0] == results[1]


@pytest.mark.parametrize('x, y, h, w', [(0, 0, 12, 17), (3, 2, 5, 6), (11, 0, 12, 6), (16, 11, 1, 1), (0, 7, 5, 17)])
def test_a_placed_mask_equals_the_encoded_bitmap_of_the_image(x, y, h, w):
    generator = np.random.default_rng(x + y)
    for bitmap in (generator.random((h, w)) > 0.4, np.ones((h, w), bool), np.zeros((h, w), bool)):
        image = np.zeros((12, 17), np.uint8, order='F')
        image[y : y + h, x : x + w] = bitmap
        assert place_rle(bitmap, x, y, 12, 17) == mask_utils.encode(image)


def test_runs_of_many_lengths_in_a_large_image():
    bitmap = np.zeros((700, 900), bool)
    # Each column's runs differ from those of the one before, by anything from a pixel to many columns.
    for column in np.cumsum([1, 1, 2, 30, 200, 400]):
        bitmap[: column % 700, column] = True
    image = np.zeros((1000, 1200), np.uint8, order='F')
    image[100:800, 200:1100] = bitmap
    assert place_rle(bitmap, 200, 100, 1000, 1200) == mask_utils.encode(image)
