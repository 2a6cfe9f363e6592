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
    score_thr: float = 0.4,
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

    columns = []
    for image in dataset['images'][:num_images]:
        picture = read_picture(data_root / 'val2017' / image['file_name'])
        # Best last: it lies on top.
        predicted = sorted(predictions[image['id']], key=lambda prediction: prediction['score'])
        columns.append([_with_masks(picture, i, image, colours) for i in ([], truth[image['id']], predicted)])
    save_grid(columns, [(category['name'], colours[category['id']]) for category in dataset['categories']], out_file)


def read_picture(path: Path) -> np.ndarray:
    """Read an image as RGB, enlarged for drawing."""
    return cv2.resize(cv2.imread(str(path))[..., ::-1], None, fx=ZOOM, fy=ZOOM, interpolation=cv2.INTER_CUBIC)


def save_grid(columns: list[list[np.ndarray]], legend: list[tuple[str, tuple[int, int, int]]], out_file: Path) -> None:
    """Save columns of pictures with the names of their rows and a legend of classes.

    Args:
        columns: Image, truth and prediction (H, W, 3), RGB, of each image.
        legend: Name and RGB colour of each class.
        out_file: The picture's file.
    """
    figure, axes = plt.subplots(
        3, len(columns), figsize=(2 * len(columns), 6.4), dpi=100, layout='constrained', squeeze=False
    )
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0.02, hspace=0.02)
    for column, pictures in enumerate(columns):
        for row, picture in enumerate(pictures):
            axes[row, column].imshow(picture)
            axes[row, column].set(xticks=[], yticks=[])
            axes[row, column].spines[:].set_visible(False)
    for row, name in enumerate(ROWS):
        axes[row, 0].set_ylabel(name, fontsize=12)
    handles = [Patch(color=np.array(colour) / 255, label=name) for name, colour in legend]
    figure.legend(handles=handles, loc='outside lower center', ncols=min(len(handles), 6), frameon=False, fontsize=11)
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
        # A crowd has an outline alone: it is no object to be found.
        paint_mask(picture, mask, colours[instance['category_id']], filled=not instance.get('iscrowd'))
    return picture


def paint_mask(picture: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int], filled: bool = True) -> None:
    """Paint a mask with its outline over an enlarged picture.

    Args:
        picture: Result of :func:`read_picture`, which is changed.
        mask: Float mask of the image before it was enlarged.
        colour: RGB colour.
        filled: Whether there is more than an outline.
    """
    mask = cv2.resize(mask, None, fx=ZOOM, fy=ZOOM, interpolation=cv2.INTER_LINEAR) > 0.5
    if filled:
        picture[mask] = 0.4 * picture[mask] + 0.6 * np.array(colour)
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(picture, contours, -1, (255, 255, 255), 5, cv2.LINE_AA)
    cv2.drawContours(picture, contours, -1, colour, 2, cv2.LINE_AA)


def _mask(segmentation, height: int, width: int) -> np.ndarray:
    if isinstance(segmentation, list):
        segmentation = mask_utils.merge(mask_utils.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation['counts'], list):
        segmentation = mask_utils.frPyObjects(segmentation, height, width)
    return mask_utils.decode(segmentation).astype(np.float32)
