import os.path as osp

import mmcv
import numpy as np
from mmdet.datasets import CocoDataset, CocoPanopticDataset
from mmdet.registry import DATASETS
from mmengine.fileio import get, get_local_path, join_path, load
from mmengine.utils import is_abs

from ..errors import InputError

# In the panoptic PNG files of COCO, the colour of a pixel is the id of its segment; black is no segment.
_RGB_WEIGHTS = np.array([1, 256, 65536], dtype=np.int32)


@DATASETS.register_module()
class CocoInstancePanopticDataset(CocoDataset):
    """Instances of one COCO file, with their overlaps and polygons, and the segments of a panoptic one.

    ``CocoPanopticDataset`` instead takes the instances from the panoptic PNG, where they do not overlap. Labels are
    numbered as in that class: things, then stuff. ``filter_empty_gt`` also leaves out images that have only crowds.

    Args:
        *args: As in ``CocoDataset``: ``ann_file`` is the file of the instances.
        panoptic_ann_file: File of the segments, below ``data_root``.
        data_prefix: ``img``, the folder of the images, and ``seg``, that of the panoptic PNG files.
        **kwargs: As in ``CocoDataset``. ``metainfo`` has ``classes``, ``thing_classes``, which come first in them, and
            ``stuff_classes``.
    """

    METAINFO = CocoPanopticDataset.METAINFO

    def __init__(self, *args, panoptic_ann_file: str, data_prefix: dict = dict(img='', seg=''), **kwargs) -> None:
        self.panoptic_ann_file = panoptic_ann_file
        super().__init__(*args, data_prefix=data_prefix, **kwargs)

    def load_data_list(self) -> list[dict]:
        """Load the images with their ``instances``, ``segments_info`` and ``seg_map_path``."""
        with get_local_path(self.panoptic_ann_file, backend_args=self.backend_args) as path:
            panoptic = load(path)
        self._entries = {entry['image_id']: entry for entry in panoptic['annotations']}
        names = {category['id']: category['name'] for category in panoptic['categories']}
        classes = self.metainfo['classes']
        self._labels = {i: classes.index(name) if name in classes else None for i, name in names.items()}
        data_list = super().load_data_list()
        del self._entries, self._labels
        return data_list

    def parse_data_info(self, raw_data_info: dict) -> dict:
        """Parse the annotations of an image; see :meth:`load_data_list`."""
        data_info = super().parse_data_info(raw_data_info)
        entry = self._entries.get(data_info['img_id'])
        if entry is None:
            raise InputError(
                f"'{self.panoptic_ann_file}' has no annotation of image {data_info['img_id']}, which '{self.ann_file}' "
                'lists: name two files of the same images'
            )
        num_things = len(self.metainfo['thing_classes'])
        segments_info = []
        for segment in entry['segments_info']:
            if segment['category_id'] not in self._labels:
                raise InputError(
                    f"'{self.panoptic_ann_file}': segment {segment['id']} of image {data_info['img_id']} has "
                    f'category {segment["category_id"]}, which is not listed: correct the file'
                )
            label = self._labels[segment['category_id']]
            if label is not None:
                is_thing = label < num_things and not segment.get('iscrowd', 0)
                segments_info.append(dict(id=segment['id'], category=label, is_thing=is_thing))
        data_info['segments_info'] = segments_info
        data_info['seg_map_path'] = osp.join(self.data_prefix['seg'], entry['file_name'])
        return data_info

    def filter_data(self) -> list[dict]:
        """Leave images out as ``filter_cfg`` says."""
        data_list = super().filter_data()
        if self.test_mode or not (self.filter_cfg or {}).get('filter_empty_gt', False):
            return data_list
        return [info for info in data_list if any(not instance['ignore_flag'] for instance in info['instances'])]

    def _join_prefix(self) -> None:
        super()._join_prefix()
        if self.data_root and not is_abs(self.panoptic_ann_file):
            self.panoptic_ann_file = join_path(self.data_root, self.panoptic_ann_file)


def rgb_to_id(image: np.ndarray) -> np.ndarray:
    """Return the segment ids (H, W), int32, of an RGB image (H, W, 3)."""
    return image.astype(np.int32) @ _RGB_WEIGHTS


def id_to_rgb(ids: np.ndarray) -> np.ndarray:
    """Return the RGB image (H, W, 3), uint8, of segment ids (H, W)."""
    return (ids[..., None] // _RGB_WEIGHTS % 256).astype(np.uint8)


def read_segment_ids(path: str, backend_args: dict | None = None) -> np.ndarray:
    """Read the segment ids (H, W) of a panoptic PNG file."""
    return rgb_to_id(mmcv.imfrombytes(get(path, backend_args=backend_args), flag='color', channel_order='rgb'))
