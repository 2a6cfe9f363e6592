import os
from pathlib import Path
from typing import Union

from mmengine.fileio import LocalBackend, register_backend


class WholeFileBackend(LocalBackend):
    """Local disk, where a file is written whole or not at all.

    A file is written beside its place, flushed to the disk and then renamed, so that a process that is killed, a
    machine that fails or a full disk leave the previous file as it was. Registered in MMEngine as ``whole_file``.
    """

    def put(self, obj: bytes, filepath: Union[str, Path]) -> None:
        """Write bytes to a file.

        Args:
            obj: The bytes.
            filepath: Path of the file. Its folder is made if it does not exist.

        Raises:
            OSError: The disk is full or not writable. The file is as it was before.
        """
        path = Path(filepath)
        path.parent.mkdir(parents=True, exist_ok=True)
        # Always the same name: the remains of a killed process are overwritten by the next one.
        partial = path.with_name(f'.{path.name}.partial')
        try:
            with open(partial, 'wb') as file:
                file.write(obj)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        except OSError:
            partial.unlink(missing_ok=True)
            raise
        if os.name == 'posix':
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def put_text(self, obj: str, filepath: Union[str, Path], encoding: str = 'utf-8') -> None:
        """Write text to a file, see :meth:`put`."""
        self.put(obj.encode(encoding), filepath)


register_backend('whole_file', WholeFileBackend)
