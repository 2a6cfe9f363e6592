import json
from pathlib import Path


def read_scalars(work_dir: Path) -> list[dict]:
    """Read what MMEngine logged of a training, in the order of the steps.

    Of steps that an interrupted training ran twice, the later record counts.

    Args:
        work_dir: The training's work folder.

    Returns:
        Records of ``vis_data/scalars.json``: of training steps with ``loss``, of validations with ``coco/...``.
    """
    records = {}
    for path in sorted(work_dir.glob('*/vis_data/scalars.json')):
        for line in path.read_text().splitlines():
            # The process may have ended within a line.
            try:
                record = json.loads(line)
            except ValueError:
                continue
            records[record['step'], 'loss' in record] = record
    return [records[key] for key in sorted(records)]
