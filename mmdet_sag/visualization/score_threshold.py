import json
from pathlib import Path

from ..fileio import atomic_write, sha256

# MMDetection's hook draws from 0.3 on, where many of a model's detections are wrong.
DEFAULT_SCORE_THR = 0.5
_FILE = 'report.json'


def picture_score_thr(model_file: str | Path | None) -> float:
    """Return the lowest score of detections in pictures of a model.

    That is the threshold with the highest F1 in the model's report, if there is a report: of a checkpoint, what
    :func:`keep_score_thr` wrote beside it; of an exported model or its folder, what the checkpoint had. Otherwise it is
    0.5.
    """
    try:
        path = Path(model_file)  # type: ignore[arg-type]
        report = json.loads(((path if path.is_dir() else path.parent) / _FILE).read_text())
        if 'metadata' in report:  # That of an export.
            return float(report['metadata']['picture_score_thr'])
        if report['checkpoint'] == path.name and report['sha256'] == sha256(path):
            return float(report['score_thr'])
    except (OSError, ValueError, TypeError, KeyError):
        # No file, no report, or a file of the same name that is something else.
        pass
    return DEFAULT_SCORE_THR


def keep_score_thr(checkpoint: str | Path, score_thr: float, **figures: float) -> None:
    """Write the threshold of a report, and its other figures, to ``report.json`` beside the checkpoint.

    Raises:
        OSError: It cannot be written.
    """
    path = Path(checkpoint)
    report = dict(checkpoint=path.name, sha256=sha256(path), score_thr=score_thr, **figures)
    with atomic_write(path.with_name(_FILE), 'w') as file:
        json.dump(report, file, indent=2)
