from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import cv2
import mmcv
import numpy as np
import pycocotools.mask as mask_utils
import torch
from mmdet.apis import DetInferencer
from mmdet.evaluation import INSTANCE_OFFSET
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.registry import FUNCTIONS
from mmengine.structures import InstanceData, PixelData

from ..checks import check_is_detector
from ..datasets.coco_instance_panoptic import id_to_rgb
from ..datasets.data_sources import test_dataset
from ..deployment.formats import is_exported
from ..engine.checkpoint_files import check_checkpoint_fits, load_checkpoint_file
from ..engine.launch import read_config
from ..errors import InputError
from ..structures.mask import RLEMasks, place_rle
from ..visualization import draw_instances, panoptic_instances, picture_score_thr
from .exported_inferencer import ExportedInferencer
from .prediction_formats import add_boxes

# Share of a mask that a better detection may cover.
_MAX_COVERED = 0.5


class PanopticInferencer(DetInferencer):
    """``DetInferencer`` that also saves panoptic results, without the package ``panopticapi``."""

    def _init_collate(self, cfg: Config) -> Callable:
        # MMEngine's own looks for a registry of MMDetection's functions, and warns that there is none.
        return FUNCTIONS.get(cfg.test_dataloader.get('collate_fn', 'pseudo_collate'))

    def pred2dict(self, data_sample: DetDataSample, pred_out_dir: str = '') -> dict:
        """Convert a prediction to a dict and, with ``pred_out_dir``, save ``preds/<image>.json``.

        Of a panoptic prediction it also saves :func:`panoptic_image` to ``preds/<image>_panoptic_seg.png``, whose path
        is ``panoptic_seg_path``. If nothing is saved, the dict has that image as ``panoptic_seg``.
        """
        if 'pred_panoptic_seg' not in data_sample:
            return super().pred2dict(data_sample, pred_out_dir)
        panoptic = data_sample.pred_panoptic_seg
        del data_sample.pred_panoptic_seg
        number = self.num_predicted_imgs
        result = super().pred2dict(data_sample, pred_out_dir)
        image = panoptic_image(panoptic, len(self.model.dataset_meta['classes']))
        if pred_out_dir:
            name = Path(data_sample.img_path).stem if 'img_path' in data_sample else number
            result['panoptic_seg_path'] = str(Path(pred_out_dir, 'preds', f'{name}_panoptic_seg.png'))
            mmcv.imwrite(image[..., ::-1], result['panoptic_seg_path'])
        else:
            result['panoptic_seg'] = image
        return result


def panoptic_image(panoptic: PixelData, num_classes: int) -> np.ndarray:
    """Return segments as an image, RGB, (H, W, 3): R + 256 G + 65536 B = label + 1000 x instance number, or 0."""
    ids = panoptic.sem_seg[0].cpu().numpy().astype(np.int32)
    ids[ids % INSTANCE_OFFSET >= num_classes] = 0
    return id_to_rgb(ids)


def _find_model(config: str, checkpoint: str | None) -> tuple[Config, str]:
    weights = None
    if Path(config).is_file():
        cfg = read_config(config)
    else:
        try:
            cfg, weights = DetInferencer._load_model_from_metafile(SimpleNamespace(scope='mmdet'), config)
        except ValueError:
            cfg = read_config(config)
    check_is_detector(cfg)
    checkpoint = checkpoint or weights
    if checkpoint is None:
        raise InputError(f'model {config} comes without weights: give a checkpoint after it (docs/checkpoints.md)')
    return cfg, checkpoint


class ImagePredictor:
    """Predicts images, also in tiles, and draws the predictions.

    Args:
        config: Config file, or the name of a model in the metafiles of MMDetection or of this package, or an exported
            model or its folder.
        checkpoint: Checkpoint file with all weights of the model; None: the weights that its metafile names. Of an
            exported model, the config is not needed, but may stand before it.
        device: Device, such as ``cpu`` or ``cuda:0``; None: the best one, and the CPU for an exported model.
        score_thr: Lowest score of a detection that is drawn; None: that of the model's report, or 0.5.
        classes: Names of the classes to keep; None: all.
        batch_size: Number of images, or tiles, per forward.
        tile_size: Side of the tiles that are predicted besides the full image; None: no tiles.
        tile_overlap: Overlap of neighbouring tiles, as a share of a tile.

    Raises:
        InputError: The config, the checkpoint, the device or an option cannot be used.
    """

    def __init__(
        self,
        config: str,
        checkpoint: str | None = None,
        device: str | None = None,
        score_thr: float | None = None,
        classes: Sequence[str] | None = None,
        batch_size: int = 1,
        tile_size: int | None = None,
        tile_overlap: float = 0.25,
    ) -> None:
        for option, value, is_valid, remedy in (
            ('--score-thr', score_thr, score_thr is None or 0 <= score_thr <= 1, 'scores are between 0 and 1'),
            ('--batch-size', batch_size, batch_size >= 1, 'give 1 or more'),
            ('--tiles', tile_size, tile_size is None or tile_size >= 32, 'give the side of a tile, 32 or more pixels'),
            ('--tile-overlap', tile_overlap, 0 <= tile_overlap < 0.9, 'give a share of a tile, 0 to 0.9'),
        ):
            if not is_valid:
                raise InputError(f'{option} {value}: {remedy}')
        self.batch_size = batch_size
        self.tile_size, self.tile_overlap = tile_size, tile_overlap
        self._is_grey = False
        exported = next((path for path in (checkpoint, config) if path and is_exported(path)), None)
        self.inferencer: PanopticInferencer | ExportedInferencer
        if exported:
            self.inferencer = ExportedInferencer(exported, device)
            best = self.inferencer.predictor.picture_score_thr
        else:
            best = picture_score_thr(self._load(config, checkpoint, device))
        self.score_thr = best if score_thr is None else score_thr
        self.classes: tuple[str, ...] = tuple(self.inferencer.model.dataset_meta['classes'])
        if unknown := [name for name in classes or () if name not in self.classes]:
            raise InputError(f"--classes: there is no class '{unknown[0]}', only {', '.join(self.classes)}")
        self._labels = None if classes is None else [self.classes.index(name) for name in classes]

    def _load(self, config: str, checkpoint: str | None, device: str | None) -> str:
        """Load a model, and return its checkpoint."""
        cfg, checkpoint = _find_model(config, checkpoint)
        # MMDetection's inferencer does not look into wrappers.
        cfg.test_dataloader.dataset = test_dataset(cfg)
        weights = load_checkpoint_file(checkpoint)
        try:
            torch.empty(0, device=device)
        # PyTorch raises RuntimeError, AssertionError or an error of the device.
        except Exception as e:
            raise InputError(f'--device {device} cannot be used here: give another, such as cpu') from e
        pipeline = cfg.test_dataloader.dataset.pipeline
        self._is_grey = any(step.get('color_type') == 'grayscale' for step in pipeline)
        self.inferencer = PanopticInferencer(cfg, checkpoint, device=device, show_progress=False)
        check_checkpoint_fits(weights, checkpoint, self.inferencer.model)
        named = (cfg.test_dataloader.dataset.get('metainfo') or {}).get('classes')
        if 'dataset_meta' not in weights.get('meta', {}) and named:
            # Without names in the checkpoint, MMDetection takes those of COCO.
            self.inferencer.model.dataset_meta['classes'] = tuple(named)
        return checkpoint

    @property
    def shows_some_classes(self) -> bool:
        """Whether some classes are left out."""
        return self._labels is not None

    def predict(self, images: Sequence[np.ndarray]) -> list[DetDataSample]:
        """Predict images, BGR, each (H, W, 3); ``pred_instances`` has the chosen classes only.

        Raises:
            InputError: An image is so narrow that nothing is left of a side of it for the network.
        """
        tiled = self.tile_size is not None
        samples = [self._predict_tiles(image) for image in images] if tiled else self._forward(images)
        return [self._of_classes(sample) for sample in samples]

    def _forward(self, images: Sequence[np.ndarray]) -> list[DetDataSample]:
        if self._is_grey:
            images = [cv2.cvtColor(image, cv2.COLOR_BGR2GRAY) for image in images]
        samples = []
        try:
            for _, data in self.inferencer.preprocess(list(images), batch_size=self.batch_size):
                samples += self.inferencer.forward(data)
        except (cv2.error, ValueError) as e:
            # Pillow's words.
            if isinstance(e, ValueError) and 'height and width' not in str(e):
                raise
            height, width = min((image.shape[:2] for image in images), key=lambda sides: min(sides) / max(sides))
            raise InputError(
                f'an image of {width}x{height} pixels is too narrow: resized, nothing is left of it; cut it into parts'
            ) from e
        for sample in samples:
            add_boxes(sample.get('pred_instances', ()))
        return samples

    def _predict_tiles(self, image: np.ndarray) -> DetDataSample:
        height, width = image.shape[:2]
        tiles = make_tiles(height, width, self.tile_size, self.tile_overlap)
        whole = Tile(0, 0, width, height)
        if tiles == [whole]:
            return self._forward([image])[0]
        # Objects larger than a tile are only complete in the full image.
        tiles.append(whole)
        samples = self._forward([image[t.y : t.y + t.height, t.x : t.x + t.width] for t in tiles])
        if any('pred_panoptic_seg' in sample for sample in samples):
            raise InputError('--tiles: a panoptic segmentation cannot be joined from tiles; leave the option out')
        return merge_tiles(tiles, samples, height, width)

    def _of_classes(self, sample: DetDataSample) -> DetDataSample:
        if 'pred_instances' in sample:
            sample.pred_instances = self._chosen(sample.pred_instances)
        return sample

    def _chosen(self, pred: InstanceData) -> InstanceData:
        labels = self._labels
        return pred if labels is None else pred[torch.isin(pred.labels, pred.labels.new_tensor(labels))]

    def draw(
        self, image: np.ndarray, sample: DetDataSample, score_thr: float | None = None, strip: bool = True
    ) -> np.ndarray:
        """Draw a prediction over its image, BGR, (H, W, 3), as :func:`draw_instances` does.

        ``score_thr`` is the lowest score of a detection that is drawn, by default the predictor's.
        """
        if 'pred_panoptic_seg' in sample:
            pred = self._chosen(panoptic_instances(sample.pred_panoptic_seg, len(self.classes)))
        else:
            pred = sample.pred_instances
            pred = pred[pred.scores >= (self.score_thr if score_thr is None else score_thr)]
        palette = self.inferencer.model.dataset_meta.get('palette')
        return draw_instances(image, pred, self.classes, palette, strip=strip)

    def best_score(self, sample: DetDataSample) -> tuple[float, str] | None:
        """Return the highest score of a prediction and its class, or None without detections."""
        pred = sample.get('pred_instances')
        if pred is None or len(pred) == 0:
            return None
        best = int(pred.scores.argmax())
        return float(pred.scores[best]), self.classes[int(pred.labels[best])]


class Tile(NamedTuple):
    """A part of an image in pixels; ``x`` and ``y`` are its left and upper end."""

    x: int
    y: int
    width: int
    height: int


def make_tiles(height: int, width: int, size: int, overlap: float) -> list[Tile]:
    """Cover an image with tiles of equal size.

    ``size`` is the side of a tile, or of the image if that is smaller, and ``overlap`` the least overlap of neighbours,
    as a share of a tile in [0, 1).
    """
    columns, rows = (_starts(length, size, overlap) for length in (width, height))
    return [Tile(x, y, min(size, width), min(size, height)) for y in rows for x in columns]


def merge_tiles(tiles: Sequence[Tile], samples: Sequence[DetDataSample], height: int, width: int) -> DetDataSample:
    """Join the detections of an image's tiles, which may include the full image; masks become run lengths.

    If masks of a class overlap by more than half of the smaller one, the best detection stays: uncut ones are better
    than those that the edge of a tile cuts, then higher scores are better. Without masks, boxes are compared.
    """
    found = [_place(tile, sample.pred_instances, height, width) for tile, sample in zip(tiles, samples)]
    instances = InstanceData.cat([instances for instances, _ in found])
    cut = np.concatenate([cut for _, cut in found])
    if len(instances):
        instances = instances[torch.from_numpy(_keep(instances, cut))]
        # Visualizers expect the highest score first.
        instances = instances[instances.scores.argsort(descending=True, stable=True)]
    merged = DetDataSample(metainfo=dict(ori_shape=(height, width), img_shape=(height, width)))
    merged.pred_instances = instances
    return merged


def _starts(length: int, size: int, overlap: float) -> Iterator[int]:
    last = max(length - size, 0)
    steps = -(-last // max(int(size * (1 - overlap)), 1))
    return [round(last * i / steps) for i in range(steps)] + [last] if steps else [0]


def _place(tile: Tile, pred: InstanceData, height: int, width: int) -> tuple[InstanceData, np.ndarray]:
    """Move the detections of a tile to the image, and find those that the tile cuts."""
    pred = pred.cpu()
    x1, y1, x2, y2 = pred.bboxes.numpy().reshape(-1, 4).T
    cut = (x1 < 2) & (tile.x > 0) | (y1 < 2) & (tile.y > 0)
    cut |= (x2 > tile.width - 2) & (tile.x + tile.width < width)
    cut |= (y2 > tile.height - 2) & (tile.y + tile.height < height)
    pred.bboxes = pred.bboxes + pred.bboxes.new_tensor([tile.x, tile.y, tile.x, tile.y])
    if 'masks' in pred:
        pred.masks = RLEMasks([_place_mask(mask, tile, height, width) for mask in pred.masks], height, width)
    return pred, cut


def _place_mask(mask, tile: Tile, height: int, width: int) -> dict:
    bitmap = np.asarray(mask.cpu(), dtype=bool)
    x, y, w, h = cv2.boundingRect(bitmap.view(np.uint8))
    return place_rle(bitmap[y : y + h, x : x + w], tile.x + x, tile.y + y, height, width)


def _keep(instances: InstanceData, cut: np.ndarray) -> np.ndarray:
    """Return the indices of the detections that stay."""
    scores = instances.get('mask_scores', instances.scores).numpy()
    labels = instances.labels.numpy()
    x1, y1, x2, y2 = instances.bboxes.numpy().astype(np.float64).T
    boxes = np.stack([x1, y1, x2 - x1, y2 - y1], axis=1)
    shapes = [dict(mask) for mask in instances.masks] if 'masks' in instances else None
    kept = np.zeros(len(scores), bool)
    for i in np.lexsort((-scores, cut)):
        near = kept & (labels == labels[i]) & (x1 < x2[i]) & (x1[i] < x2) & (y1 < y2[i]) & (y1[i] < y2)
        rivals = np.flatnonzero(near)
        if len(rivals):
            mine, theirs = ([shapes[i]], [shapes[k] for k in rivals]) if shapes else (boxes[[i]], boxes[rivals])
            # With iscrowd, pycocotools returns the covered share of the first.
            covered = mask_utils.iou(mine, theirs, [1] * len(rivals))[0]
            covers = mask_utils.iou(theirs, mine, [1])[:, 0]
            if max(covered.max(), covers.max()) > _MAX_COVERED:
                continue
        kept[i] = True
    return np.flatnonzero(kept)
