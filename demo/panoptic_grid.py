import json
from pathlib import Path

import numpy as np
from result_grid import paint_mask, read_picture, save_grid

from mmdet_sag.datasets.coco_instance_panoptic import read_segment_ids


def draw_panoptic_grid(
    data_root: Path,
    predictions_file: Path,
    palette: list[tuple[int, int, int]],
    out_file: Path,
    num_images: int = 5,
) -> None:
    """Draw the first validation images beside their true and their predicted panoptic segmentation.

    What belongs to no segment stays as it is in the image.

    Args:
        data_root: Folder of the data set.
        predictions_file: Predicted segments in COCO's panoptic format; the PNG files are in the folder beside it.
        palette: RGB colour of each class, in the order of the categories.
        out_file: The picture's file.
        num_images: Number of images.
    """
    truth_file = data_root / 'annotations/panoptic_val2017.json'
    dataset = json.loads(truth_file.read_text())
    colours = {category['id']: colour for category, colour in zip(dataset['categories'], palette)}
    truth, predicted = (
        {entry['image_id']: entry for entry in json.loads(path.read_text())['annotations']}
        for path in (truth_file, predictions_file)
    )
    columns = []
    for image in dataset['images'][:num_images]:
        picture = read_picture(data_root / 'val2017' / image['file_name'])
        column = [picture]
        for entries, folder in ((truth, truth_file.with_suffix('')), (predicted, predictions_file.with_suffix(''))):
            entry = entries[image['id']]
            column.append(_with_segments(picture, entry, read_segment_ids(str(folder / entry['file_name'])), colours))
        columns.append(column)
    save_grid(columns, [(category['name'], colours[category['id']]) for category in dataset['categories']], out_file)


def _with_segments(picture: np.ndarray, entry: dict, ids: np.ndarray, colours: dict) -> np.ndarray:
    picture = picture.copy()
    # Things last: their outlines lie over those of stuff.
    for segment in sorted(entry['segments_info'], key=lambda segment: -segment['category_id']):
        mask = (ids == segment['id']).astype(np.float32)
        paint_mask(picture, mask, colours[segment['category_id']], filled=not segment.get('iscrowd'))
    return picture
