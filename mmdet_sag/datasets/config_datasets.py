from collections.abc import Iterator

from mmdet.registry import DATASETS
from mmdet.utils import ConfigType
from mmengine.config import Config, ConfigDict
from mmengine.dataset import pseudo_collate

from .data_sources import innermost_dataset


def test_dataset(cfg: Config) -> ConfigDict:
    """Config of the data set of ``test_dataloader``, without wrappers."""
    return innermost_dataset(cfg.test_dataloader.dataset)


def dataset_meta(cfg: Config) -> dict:
    """``classes`` and ``palette`` of the test data set, if it has them."""
    dataset = test_dataset(cfg)
    return {**(DATASETS.get(dataset.type).METAINFO or {}), **(dataset.get('metainfo') or {})}


def config_images(cfg: Config, num_images: int, dataset: ConfigType = None) -> Iterator[dict]:
    """Load ``num_images`` images or fewer, spread evenly over a data set, in batches of one for a preprocessor.

    The test pipeline loads them; the data set is by default that of ``test_dataloader``.
    """
    pipeline = [step for step in test_dataset(cfg).pipeline if step['type'] != 'LoadAnnotations']
    built = DATASETS.build({**(dataset or test_dataset(cfg)), 'pipeline': pipeline, 'test_mode': True})
    count = min(num_images, len(built))
    return (pseudo_collate([built[i * len(built) // count]]) for i in range(count))
