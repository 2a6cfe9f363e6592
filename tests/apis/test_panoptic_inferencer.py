import json

import cv2
import numpy as np
import pytest
import torch
from support.tiny_panoptic import build_tiny, tiny_config

from mmdet_sag.apis import PanopticInferencer


@pytest.fixture
def inferencer(tmp_path):
    config = tiny_config()
    config.model.test_cfg.bbox_head.score_thr = 0.0
    config.model.test_cfg.panoptic.score_thr = 0.0
    meta = dict(dataset_meta={key.upper(): value for key, value in config.metainfo.items()} | dict(config.metainfo))
    torch.save(dict(meta=meta, state_dict=build_tiny().state_dict()), tmp_path / 'model.pth')
    config.dump(tmp_path / 'config.py')
    return PanopticInferencer(str(tmp_path / 'config.py'), str(tmp_path / 'model.pth'), device='cpu')


def test_an_image_gets_a_picture_numbers_and_a_panoptic_png(inferencer, tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (96, 128, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / 'street.png'), image)
    out = tmp_path / 'out'
    (result,) = inferencer(str(tmp_path / 'street.png'), out_dir=str(out), no_save_pred=False)['predictions']
    assert cv2.imread(str(out / 'vis/street.png')).shape[:2] == (480, 640)
    assert len(json.loads((out / 'preds/street.json').read_text())['scores']) > 0
    png = cv2.imread(result['panoptic_seg_path'])[..., ::-1].astype(int) @ [1, 256, 65536]
    assert png.shape == (96, 128)
    assert (png % 1000 < 11).all()

    (result,) = inferencer(image)['predictions']
    np.testing.assert_array_equal(result['panoptic_seg'].astype(int) @ [1, 256, 65536], png)
