import os
from collections.abc import Sequence

from mmdet.engine.hooks import DetVisualizationHook
from mmdet.registry import HOOKS
from mmdet.structures import DetDataSample
from mmengine.runner import Runner


@HOOKS.register_module()
class FolderVisualizationHook(DetVisualizationHook):
    """Draws like :class:`mmdet.engine.hooks.DetVisualizationHook`, but keeps the folders of the images.

    That one writes images of the same name from several folders to one file. Here each is written below the folder of
    pictures as it lies below the folder that all images of the test data have in common.
    """

    def before_test(self, runner: Runner) -> None:
        """Find the common folder of the images."""
        if self.draw and self.test_out_dir is not None:
            dataset = runner.test_dataloader.dataset
            paths = {dataset.get_data_info(index)['img_path'] for index in range(len(dataset))}
            self._root = os.path.commonpath([os.path.dirname(path) for path in paths])
            self._pictures = os.path.join(runner.work_dir, runner.timestamp, self.test_out_dir)

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict, outputs: Sequence[DetDataSample]
    ) -> None:
        """Draw the predictions of a batch."""
        for sample in outputs:
            if self.draw and self.test_out_dir is not None:
                folder = os.path.relpath(os.path.dirname(sample.img_path), self._root)
                # MMDetection's hook makes it, and joins nothing to an absolute path.
                self.test_out_dir = os.path.normpath(os.path.join(self._pictures, folder))
            super().after_test_iter(runner, batch_idx, data_batch, [sample])
