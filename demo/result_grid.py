import io
import json
from collections import defaultdict
from pathlib import Path

import cv2
import matplotlib
import numpy as np
import pycocotools.mask as mask_utils

matplotlib.use('Agg')
import matplotlib.pyplot as plt
from matplotlib.patches import Patch
from PIL import Image

ROWS = ('image', 'ground truth', 'prediction')
# Pictures are drawn this much larger than the images, so that outlines are fine.
ZOOM = 4


def draw_result_grid(
    data_root: Path,
    predictions_file: Path,
    palette: list[tuple[int, int, int]],
    out_file: Path,
    num_images: int = 5,
    score_thr: float = 0.3,
) -> None:
    """Draw the first validation images beside their true and their predicted masks.

    Args:
        data_root: Folder of the data set.
        predictions_file: Predicted masks in COCO's result format.
        palette: RGB colour of each class, in the order of the categories.
        out_file: The picture's file.
        num_images: Number of images.
        score_thr: Lowest mask score that is drawn.
    """
    dataset = json.loads((data_root / 'annotations/instances_val2017.json').read_text())
    colours = {category['id']: colour for category, colour in zip(dataset['categories'], palette)}
    truth = _by_image(dataset['annotations'])
    predictions = _by_image(p for p in json.loads(predictions_file.read_text()) if p['score'] >= score_thr)

    images = dataset['images'][:num_images]
    figure, axes = plt.subplots(
        3, len(images), figsize=(2 * len(images), 6.4), dpi=100, layout='constrained', squeeze=False
    )
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0.02, hspace=0.02)
    for column, image in enumerate(images):
        picture = cv2.imread(str(data_root / 'val2017' / image['file_name']))[..., ::-1]
        picture = cv2.resize(picture, None, fx=ZOOM, fy=ZOOM, interpolation=cv2.INTER_CUBIC)
        # Best last: it lies on top.
        predicted = sorted(predictions[image['id']], key=lambda prediction: prediction['score'])
        for row, instances in enumerate(([], truth[image['id']], predicted)):
            axes[row, column].imshow(_with_masks(picture, instances, image, colours))
            axes[row, column].set(xticks=[], yticks=[])
            axes[row, column].spines[:].set_visible(False)
    for row, name in enumerate(ROWS):
        axes[row, 0].set_ylabel(name, fontsize=12)
    handles = [
        Patch(color=np.array(colours[category['id']]) / 255, label=category['name'])
        for category in dataset['categories']
    ]
    figure.legend(handles=handles, loc='outside lower center', ncols=len(handles), frameon=False, fontsize=11)
    buffer = io.BytesIO()
    figure.savefig(buffer, format='png')
    # Textures do not compress: with 256 colours, dithered, the file is a third as large and looks the same.
    picture = Image.open(buffer).convert('RGB')
    picture.quantize(palette=picture.quantize(256), dither=Image.Dither.FLOYDSTEINBERG).save(out_file, optimize=True)
    plt.close(figure)


def _by_image(instances) -> dict[int, list[dict]]:
    grouped = defaultdict(list)
    for instance in instances:
        grouped[instance['image_id']].append(instance)
    return grouped


def _with_masks(picture: np.ndarray, instances: list[dict], image: dict, colours: dict) -> np.ndarray:
    picture = picture.copy()
    for instance in instances:
        mask = _mask(instance['segmentation'], image['height'], image['width'])
        mask = cv2.resize(mask, None, fx=ZOOM, fy=ZOOM, interpolation=cv2.INTER_LINEAR) > 0.5
        colour = colours[instance['category_id']]
        # A crowd has an outline alone: it is no object to be found.
        if not instance.get('iscrowd'):
            picture[mask] = 0.4 * picture[mask] + 0.6 * np.array(colour)
        contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(picture, contours, -1, (255, 255, 255), 5, cv2.LINE_AA)
        cv2.drawContours(picture, contours, -1, colour, 2, cv2.LINE_AA)
    return picture


def _mask(segmentation, height: int, width: int) -> np.ndarray:
    if isinstance(segmentation, list):
        segmentation = mask_utils.merge(mask_utils.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation['counts'], list):
        segmentation = mask_utils.frPyObjects(segmentation, height, width)
    return mask_utils.decode(segmentation).astype(np.float32)
