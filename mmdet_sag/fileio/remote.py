from pathlib import Path

# Those of MMEngine's storage backends that read and write the local disk under plain paths.
_LOCAL_BACKENDS = ('local', 'atomic_file')


def is_remote(path: str | Path, backend_args: dict | None = None) -> bool:
    """Whether a path is read or written through something else than the local disk.

    Args:
        path: Path of a file or folder, or an address as MMEngine knows them (``https://...``, ``s3://...``,
            ``open-mmlab://...``).
        backend_args: The storage backend that a config names for it, if any.
    """
    return '://' in str(path) or (backend_args or {}).get('backend', 'local') not in _LOCAL_BACKENDS
