"""A data set of images that are hard to show, and predictions for it: many objects, none, very wide, very tall."""

import json
from pathlib import Path

import cv2
import numpy as np
import pycocotools.mask as mask_utils
import torch
from mmengine.fileio import dump

CLASSES = ('<b>insulator</b>', '缺陷 $1', 'defect')
# Name: height, width, number of objects.
IMAGES = {
    'wide.png': (120, 2400, 6),
    'tall.png': (1800, 90, 4),
    'fifty.png': (400, 500, 50),
    'empty.png': (200, 300, 0),
    'nothing found é.png': (240, 320, 3),
    'plain.png': (240, 320, 3),
}


def write_odd_images(root: Path, mask_scores: bool = True, found: bool = True) -> None:
    """Write images, ``annotations.json`` and ``results.pkl`` into a folder.

    Args:
        root: The folder.
        mask_scores: Whether the predictions have mask scores.
        found: Whether there is any prediction.
    """
    (root / 'images').mkdir(parents=True)
    generator = np.random.default_rng(0)
    images, annotations, results = [], [], []
    for image_id, (name, (height, width, number)) in enumerate(IMAGES.items(), 1):
        picture = generator.integers(90, 130, (height, width, 3), dtype=np.uint8)
        pred = dict(bboxes=[], scores=[], labels=[], masks=[], mask_scores=[])
        for k in range(number):
            w, h = (int(generator.integers(12, min(side, 100) // 2)) for side in (width, height))
            x, y = int(generator.integers(0, width - w)), int(generator.integers(0, height - h))
            label = k % 3
            cv2.rectangle(
                picture, (x, y), (x + w - 1, y + h - 1), [(40, 40, 230), (230, 120, 30), (30, 200, 60)][label], -1
            )
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=image_id,
                    category_id=label + 1,
                    bbox=[x, y, w, h],
                    area=w * h,
                    iscrowd=0,
                    segmentation=[[x, y, x + w, y, x + w, y + h, x, y + h]],
                )
            )
            if not found or name.startswith('nothing'):
                continue
            bitmap = np.zeros((height, width), np.uint8)
            # Every fifth is moved out of its object, every seventh gets another class.
            shift = w if k % 5 == 4 else 1
            bitmap[y : y + h, min(x + shift, width - 2) : x + w + shift] = 1
            mask = mask_utils.encode(np.asfortranarray(bitmap))
            box = mask_utils.toBbox(mask)
            score = 0.3 + 0.65 * float(generator.random())
            pred['bboxes'].append([box[0], box[1], box[0] + box[2], box[1] + box[3]])
            pred['scores'].append(score)
            pred['labels'].append((label + 1) % 3 if k % 7 == 6 else label)
            pred['masks'].append(mask)
            pred['mask_scores'].append(score * (0.5 if shift > 1 else 0.9))
        cv2.imwrite(str(root / 'images' / name), picture)
        images.append(dict(id=image_id, file_name=name, width=width, height=height))
        tensors = {key: torch.tensor(value) for key, value in pred.items() if key != 'masks'}
        tensors['bboxes'] = tensors['bboxes'].reshape(-1, 4).float()
        if not mask_scores:
            del tensors['mask_scores']
        results.append(
            dict(img_id=image_id, ori_shape=(height, width), pred_instances=dict(tensors, masks=pred['masks']))
        )
    categories = [dict(id=i, name=name) for i, name in enumerate(CLASSES, 1)]
    content = dict(images=images, annotations=annotations, categories=categories)
    (root / 'annotations.json').write_text(json.dumps(content))
    dump(results, str(root / 'results.pkl'))
    (root / 'config.py').write_text(
        f"""_base_ = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'
data = dict(
    data_root={str(root)!r},
    ann_file='annotations.json',
    data_prefix=dict(img='images/'),
    metainfo=dict(classes={CLASSES!r}),
)
train_dataloader = dict(dataset=data)
test_dataloader = dict(dataset=data)
test_evaluator = dict(ann_file={str(root / 'annotations.json')!r})
"""
    )
