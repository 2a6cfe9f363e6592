from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend

from ..fileio import atomic_write


class AtomicFileBackend(LocalBackend):
    """Local disk with atomic writes (:func:`atomic_write`), registered in MMEngine as ``atomic_file``."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes to a file, whose folder is created if it does not exist."""
        path = Path(filepath)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            file.write(obj)

    def put_text(self, obj: str, filepath: str | Path, encoding: str = 'utf-8') -> None:
        """Write text to a file, see :meth:`put`."""
        self.put(obj.encode(encoding), filepath)


register_backend('atomic_file', AtomicFileBackend)
