from collections.abc import Sequence

from mmdet.evaluation import DumpDetResults
from mmdet.registry import METRICS

from ...structures.mask import RLEMasks


@METRICS.register_module()
class DumpRLEResults(DumpDetResults):
    """Dump predictions like :class:`mmdet.evaluation.DumpDetResults`, without decoding :class:`RLEMasks`.

    The file has the same content: masks are plain dicts of ``size`` and ``counts``.
    """

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Collect the predictions of a batch, ``data_samples``."""
        encoded = {}
        samples = []
        for i, sample in enumerate(data_samples):
            pred = sample.get('pred_instances', {})
            if isinstance(pred.get('masks'), RLEMasks):
                encoded[len(self.results) + i] = [dict(mask) for mask in pred['masks']]
                sample = dict(sample, pred_instances={key: pred[key] for key in pred if key != 'masks'})
            samples.append(sample)
        super().process(data_batch, samples)
        for i, masks in encoded.items():
            self.results[i]['pred_instances']['masks'] = masks
