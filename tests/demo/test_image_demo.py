import json
import runpy
import sys
from pathlib import Path

import cv2
import numpy as np
import pycocotools.mask as mask_utils
import pytest
import torch
import tqdm
from mmdet.apis import DetInferencer
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.hub import get_config
from support import tiny_panoptic
from support.small_graph import write_onnx
from support.tiny_checkpoint import write_tiny_checkpoint
from support.tiny_training import CLASSES
from support.tool import run_tool

from mmdet_sag.apis import ImagePredictor
from mmdet_sag.deployment import runtime
from mmdet_sag.errors import InputError
from mmdet_sag.visualization import keep_score_thr

DEMO = Path(__file__).resolve().parents[2] / 'demo'


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('image_demo')
    write_tiny_checkpoint(folder)
    return folder


@pytest.fixture
def demo(folder, monkeypatch, capsys):
    """Runs a demo inside this process; returns what it prints."""
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(DEMO))

    def run(*arguments, name='image_demo'):
        monkeypatch.setattr(sys, 'argv', [name, *(str(argument) for argument in arguments)])
        runpy.run_path(str(DEMO / f'{name}.py'))['main']()
        return capsys.readouterr().out

    return run


def test_each_image_of_a_folder_gets_a_picture_and_results_in_the_format_of_coco(demo, folder, tmp_path):
    said = demo('data/images', 'config.py', 'model.pth', '--out-dir', tmp_path, '--batch-size', 3, '--score-thr', 0.1)
    results = json.loads((tmp_path / 'results.json').read_text())
    assert f'{len(results["annotations"])} detections in 4 images' in said
    assert [image['file_name'] for image in results['images']] == ['1.png', '2.png', '3.png', '4.png']
    assert [category['name'] for category in results['categories']] == list(CLASSES)
    for annotation in results['annotations']:
        assert annotation['score'] >= 0.1
        assert mask_utils.area(annotation['segmentation']) == annotation['area']
    for i in range(1, 5):
        picture = cv2.imread(str(tmp_path / f'vis/{i}.png'))
        plain = cv2.imread(str(folder / f'data/images/{i}.png'))
        # Enlarged, the detections drawn over it.
        assert picture.shape[1] % plain.shape[1] == 0
        enlarged = cv2.resize(plain, (picture.shape[1],) * 2, interpolation=cv2.INTER_CUBIC)
        assert np.abs(enlarged.astype(int) - picture[: len(enlarged)]).max() > 50


def test_after_ctrl_c_there_are_the_results_of_the_images_up_to_there(demo, folder, tmp_path, monkeypatch):
    predict = ImagePredictor.predict

    def interrupted(predictor, images):
        if (tmp_path / 'vis/2.png').exists():
            raise KeyboardInterrupt
        return predict(predictor, images)

    monkeypatch.setattr(ImagePredictor, 'predict', interrupted)
    with pytest.raises(KeyboardInterrupt):
        demo('data/images', 'config.py', 'model.pth', '--out', tmp_path)
    results = json.loads((tmp_path / 'results.json').read_text())
    assert [image['file_name'] for image in results['images']] == ['1.png', '2.png']


def test_a_pattern_finds_no_pictures_of_an_earlier_run(demo, tmp_path):
    cv2.imwrite(str(tmp_path / 'a.png'), np.zeros((64, 64, 3), np.uint8))
    for pattern in ('**/*.png', '**/*.png', 'out/**/*.png'):
        assert ' in 1 image: ' in demo(tmp_path / pattern, 'config.py', 'model.pth', '--out', tmp_path / 'out')


def test_detections_are_shown_from_the_best_threshold_of_the_report_on(demo, folder, tmp_path):
    arguments = ('data/images/1.png', 'config.py', 'model.pth', '--out', tmp_path)
    by_default, none = demo(*arguments), demo(*arguments, '--score-thr', 1)
    keep_score_thr(folder / 'model.pth', 1.0)
    try:
        assert by_default != demo(*arguments) == none
    finally:
        (folder / 'report.json').unlink()


def test_without_arguments_the_model_that_comes_along_finds_the_shapes_of_an_image_that_comes_along(demo, tmp_path):
    assert '6 detections in 1 image: ' in demo('--out', tmp_path)
    results = json.loads((tmp_path / 'results.json').read_text())
    names = {category['id']: category['name'] for category in results['categories']}
    found = sorted(names[annotation['category_id']] for annotation in results['annotations'])
    assert found == ['crescent', 'cross', 'cross', 'gear', 'ring', 'star']


def test_only_the_chosen_classes_are_shown(demo, tmp_path):
    demo('data/images/*.png', 'config.py', 'model.pth', '--out', tmp_path, '--classes', 'blue', '--score-thr', 0.1)
    results = json.loads((tmp_path / 'results.json').read_text())
    assert {annotation['category_id'] for annotation in results['annotations']} == {2}


def test_nothing_above_the_threshold_is_said_with_the_best_score(demo, tmp_path):
    said = demo('data/images/1.png', 'config.py', 'model.pth', '--out', tmp_path, '--score-thr', 1)
    assert '1.png: nothing has a score of 1 or more; the best is 0.' in said
    assert any(f'({name})' in said for name in CLASSES)


def test_a_large_image_is_predicted_in_tiles(demo, folder, tmp_path):
    small = [cv2.imread(str(folder / f'data/images/{i}.png')) for i in (1, 2, 3, 4)]
    large = np.vstack([np.hstack(small), np.hstack(small[::-1])])
    cv2.imwrite(str(tmp_path / 'large.png'), large)
    arguments = ('config.py', 'model.pth', '--out', tmp_path, '--tiles', 64, '--score-thr', 0.1)
    demo(tmp_path / 'large.png', *arguments, '--batch-size', 8)
    results = json.loads((tmp_path / 'results.json').read_text())
    assert results['annotations']
    assert all(annotation['segmentation']['size'] == [128, 256] for annotation in results['annotations'])
    columns = {int(annotation['bbox'][0] // 64) for annotation in results['annotations']}
    assert columns == {0, 1, 2, 3}


def test_a_model_of_grey_images_sees_them_grey(demo, folder, tmp_path):
    config, checkpoint = Config.fromfile(folder / 'config.py'), torch.load(folder / 'model.pth')
    config.model.backbone.in_channels = 1
    config.model.data_preprocessor.update(mean=[110.0], std=[57.0], bgr_to_rgb=False)
    config.test_dataloader.dataset.pipeline[0].color_type = 'grayscale'
    config.dump(tmp_path / 'grey.py')
    weights = checkpoint['state_dict']
    first = next(name for name, value in weights.items() if value.shape[1:2] == (3,))
    weights[first] = weights[first].sum(dim=1, keepdim=True)
    torch.save(checkpoint, tmp_path / 'grey.pth')
    model = (str(tmp_path / 'grey.py'), str(tmp_path / 'grey.pth'))
    demo('data/images/1.png', *model, '--out', tmp_path, '--score-thr', 0)
    found = json.loads((tmp_path / 'results.json').read_text())['annotations']
    (expected,) = DetInferencer(*model, device='cpu', show_progress=False)('data/images/1.png')['predictions']
    # OpenCV's two ways to grey differ by rounding.
    assert [annotation['score'] for annotation in found] == pytest.approx(expected['scores'], abs=2e-3)


def test_a_model_whose_boxes_have_no_extent_has_those_of_its_masks(demo, folder, tmp_path):
    config = get_config('mmdet::solo/solo_r50_fpn_1x_coco.py')
    config.model.backbone.update(depth=18, init_cfg=None, base_channels=8)
    config.model.neck.update(in_channels=[8, 16, 32, 64], out_channels=16)
    config.model.mask_head.update(num_classes=2, in_channels=16, feat_channels=32, stacked_convs=1)
    config.model.test_cfg.update(score_thr=0.0, filter_thr=0.0, max_per_img=5)
    config.test_dataloader.dataset.pipeline[1].scale = (128, 128)
    config.dump(tmp_path / 'solo.py')
    torch.manual_seed(0)
    model = MODELS.build(config.model)
    for conv in model.mask_head.modules():
        if isinstance(conv, torch.nn.Conv2d):
            torch.nn.init.normal_(conv.weight, std=0.3)
    meta = dict(dataset_meta=dict(classes=CLASSES))
    torch.save(dict(meta=meta, state_dict=model.state_dict()), tmp_path / 'solo.pth')
    image = np.tile(cv2.imread(str(folder / 'data/images/1.png')), (1, 2, 1))
    cv2.imwrite(str(tmp_path / 'wide.png'), image)
    arguments = (tmp_path / 'wide.png', tmp_path / 'solo.py', tmp_path / 'solo.pth', '--out', tmp_path)
    demo(*arguments, '--score-thr', 0, '--tiles', 64)
    found = json.loads((tmp_path / 'results.json').read_text())['annotations']
    # Of both tiles and the whole image, without those that cover each other.
    assert 0 < len(found) < 15
    for one in found:
        assert one['bbox'] == mask_utils.toBbox(one['segmentation']).tolist()


def test_files_that_are_no_images_are_left_out_and_named(demo, folder, tmp_path):
    (tmp_path / 'broken.jpg').write_bytes(b'no image')
    with pytest.raises(InputError, match='none of the 1 files'):
        demo(tmp_path / 'broken.jpg', 'config.py', 'model.pth', '--out', tmp_path / 'out')
    image = cv2.imread(str(folder / 'data/images/1.png'))
    cv2.imwrite(str(tmp_path / 'good ü.png'), image)
    # Of formats that OpenCV reads, and does not write, or not in colour.
    cv2.imwrite(str(tmp_path / 'grey.pgm'), image[..., 0])
    (tmp_path / 'browser.jfif').write_bytes(cv2.imencode('.jpg', image)[1])
    said = demo(tmp_path, 'config.py', 'model.pth', '--out', tmp_path / 'out')
    assert 'broken.jpg: left out' in said
    for name in ('good ü.png', 'grey.pgm.png', 'browser.jfif.png'):
        assert cv2.imread(str(tmp_path / 'out/vis' / name)).shape[1] == 512


@pytest.mark.parametrize('kind', ['cv2', 'pillow', 'exported'])
def test_an_image_that_is_too_narrow_is_left_out_and_named(demo, folder, tmp_path, kind):
    cv2.imwrite(str(tmp_path / 'narrow.png'), np.zeros((1, 2000, 3), np.uint8))
    cv2.imwrite(str(tmp_path / 'good.png'), cv2.imread(str(folder / 'data/images/1.png')))
    if kind == 'exported':
        pytest.importorskip('onnxruntime')
        write_onnx(tmp_path / 'exported')
        model = (tmp_path / 'exported',)
    else:
        config = Config.fromfile('config.py')
        config.test_dataloader.dataset.pipeline[1].backend = kind
        config.dump(tmp_path / 'config.py')
        model = (tmp_path / 'config.py', 'model.pth')
    said = demo(tmp_path, *model, '--out', tmp_path / 'out', '--batch-size', 2)
    assert 'narrow.png: left out, an image of 2000x1 pixels is too narrow' in said
    assert (tmp_path / 'out/vis/good.png').is_file()
    with pytest.raises(InputError, match='none of the 1 .*: .*narrow.png: left out, an image of 2000x1 pixels'):
        demo(tmp_path / 'narrow.png', *model, '--out', tmp_path / 'out')


def test_an_exported_model_is_drawn_as_its_runtime_finds(demo, folder, tmp_path):
    pytest.importorskip('onnxruntime')
    write_onnx(tmp_path / 'exported')
    image = folder / 'data/images/1.png'
    expected = runtime.Predictor(tmp_path / 'exported')(image)
    shown = expected['scores'] >= 0.5
    for model in ((tmp_path / 'exported/model.onnx',), ('config.py', tmp_path / 'exported')):
        demo(image, *model, '--out', tmp_path / 'out', '--device', 'cpu')
        results = json.loads((tmp_path / 'out/results.json').read_text())
        found = results['annotations']
        assert [annotation['score'] for annotation in found] == pytest.approx(expected['scores'][shown])
        texts = [annotation['segmentation']['counts'] for annotation in found]
        assert texts == [mask['counts'] for mask, is_shown in zip(expected['masks'], shown) if is_shown]
        assert [category['name'] for category in results['categories']] == list(CLASSES)
    assert cv2.imread(str(tmp_path / 'out/vis/1.png')).size
    demo(image, tmp_path / 'exported', '--out', tmp_path / 'out', '--classes', 'blue', '--tiles', 48)
    results = json.loads((tmp_path / 'out/results.json').read_text())
    assert {annotation['category_id'] for annotation in results['annotations']} == {2}
    with pytest.raises(InputError, match='device cuda:7: this onnxruntime has no cuda:7'):
        demo(image, tmp_path / 'exported', '--out', tmp_path / 'out', '--device', 'cuda:7')


@pytest.mark.parametrize(
    'arguments, message',
    [
        (('data/images/1.png', 'config.py', 'other.pth'), 'does not belong to this model'),
        (('data/images/1.png', 'config.py', 'broken.pth'), 'broken.pth'),
        (('data/images/1.png', 'config.py', 'model.pth', '--classes', 'red'), "no class 'red', only green, blue"),
        (('data/images/1.png', 'config.py', 'model.pth', '--device', 'cuda:9'), '--device cuda:9 cannot be used'),
        (('data/images/1.png', 'config.py', 'model.pth', '--batch-size', '0'), 'give 1 or more'),
        (('data/images/1.png', 'config.py', 'model.pth', '--out', 'config.py'), 'cannot be written to'),
        (('data/*.gif', 'config.py', 'model.pth'), 'check the path, or the pattern'),
        (('data', 'config.py', 'model.pth'), 'holds no images'),
        (('data/images/1.png', 'joined.py', 'model.pth'), 'test_dataloader.dataset joins several data sets'),
        (('data/images/1.png', 'nothing'), 'config nothing does not exist, and no config of the package has this name'),
        (('data/images/1.png', 'centermask-lite_v39_fpn_ms-4x_coco'), 'comes without weights'),
    ],
)
def test_bad_input_is_named_before_anything_is_drawn(demo, folder, arguments, message):
    (folder / 'broken.pth').write_bytes(b'PK\x03\x04')
    weights = torch.load(folder / 'model.pth', weights_only=False)['state_dict']
    half = {key: value for key, value in weights.items() if key.startswith('backbone')}
    torch.save(dict(state_dict=half), folder / 'other.pth')
    config = Config.fromfile('config.py')
    config.test_dataloader.dataset = dict(type='ConcatDataset', datasets=[config.test_dataloader.dataset] * 2)
    config.dump('joined.py')
    with pytest.raises(InputError) as error:
        demo(*arguments)
    assert message in str(error.value)
    assert '\n' not in str(error.value)
    assert not (folder / 'outputs/vis').exists()


def test_as_a_process_it_shows_its_progress(folder, tmp_path):
    arguments = ('data/images', 'config.py', 'model.pth', '--out', tmp_path)
    result = run_tool(DEMO / 'image_demo.py', *arguments, cwd=folder)
    assert result.returncode == 0, result.stderr[-2000:]
    assert '4/4' in result.stderr and 'image/s' in result.stderr.replace('s/image', 'image/s')
    assert 'detections in 4 images' in result.stdout


def test_an_image_counts_as_done_when_its_picture_is_written(demo, tmp_path, monkeypatch):
    pictures = []

    class Progress(tqdm.tqdm):
        def update(self, n=1):
            pictures.append((self.n + n, len(list(tmp_path.glob('vis/*')))))
            return super().update(n)

    monkeypatch.setattr(tqdm, 'tqdm', Progress)
    demo('data/images', 'config.py', 'model.pth', '--out', tmp_path, '--batch-size', 3)
    assert pictures == [(3, 3), (4, 4)]


@pytest.mark.parametrize('name', ['video.mp4', 'video.webm', 'video.avi'])
def test_a_video_becomes_one_that_plays_with_the_detections_drawn(demo, folder, tmp_path, name):
    source = tmp_path / 'source.avi'
    writer = cv2.VideoWriter(str(source), cv2.VideoWriter_fourcc(*'MJPG'), 12, (64, 64))
    for i in (1, 2, 3, 4, 1):
        writer.write(cv2.imread(str(folder / f'data/images/{i}.png')))
    writer.release()
    out = tmp_path / name
    arguments = ('config.py', 'model.pth', '--out', out, '--batch-size', 2, '--score-thr', 0.1)
    said = demo(source, *arguments, '--results', tmp_path / 'results.json', name='video_demo')
    assert 'detections in 5 frames' in said and 'images/s' in said
    capture = cv2.VideoCapture(str(out))
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(12, abs=0.1)
    frames = []
    while (read := capture.read())[0]:
        frames.append(read[1])
    assert len(frames) == 5
    assert {frame.shape for frame in frames} == {(512, 512, 3)}
    assert len(json.loads((tmp_path / 'results.json').read_text())['images']) == 5


@pytest.mark.parametrize(
    'arguments, message',
    [
        (('none.mp4',), 'does not exist'),
        (('config.py',), 'cannot be opened'),
        (('config.py', '--out', 'video.gif'), 'name a file that ends in'),
        (('config.py', '--max-frames', '-1'), '--max-frames -1: give 1 or more'),
    ],
)
def test_what_is_no_video_is_named(demo, arguments, message):
    source, *options = arguments
    with pytest.raises(InputError, match=message):
        demo(source, 'config.py', 'model.pth', *options, name='video_demo')


def test_a_panoptic_model_also_writes_its_segments(demo, tmp_path):
    config = tiny_panoptic.tiny_config()
    config.model.test_cfg.panoptic.score_thr = 0.0
    config.dump(tmp_path / 'config.py')
    meta = dict(dataset_meta=dict(config.metainfo))
    torch.save(dict(meta=meta, state_dict=tiny_panoptic.build_tiny().state_dict()), tmp_path / 'model.pth')
    for name in ('a/street.png', 'b/street.png', 'b/street.jpg'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / name), np.full((96, 128, 3), 120, np.uint8))
    out = tmp_path / 'out'
    model = (tmp_path / 'config.py', tmp_path / 'model.pth')
    said = demo(tmp_path / '[ab]/*', *model, '--out', out)
    for name in ('a/street', 'b/street', 'b/street.png'):
        assert cv2.imread(str(out / f'preds/{name}_panoptic_seg.png')).shape == (96, 128, 3)
    assert cv2.imread(str(out / 'vis/a/street.png')).shape[1] == 5 * 128
    found = json.loads((out / 'results.json').read_text())
    assert f'{len(found["annotations"])} detections in 3 images' in said
    # Only the chosen classes are drawn, here one that was not found.
    labels = cv2.imread(str(out / 'preds/a/street_panoptic_seg.png')).astype(int) @ [65536, 256, 1] % 1000
    absent = next(name for label, name in enumerate(meta['dataset_meta']['classes']) if label not in labels)
    demo(tmp_path / 'a/street.png', *model, '--out', out, '--classes', absent)
    assert np.unique(cv2.imread(str(out / 'vis/street.png'))).tolist() == [120]
