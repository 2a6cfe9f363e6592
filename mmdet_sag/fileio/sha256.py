import hashlib
from pathlib import Path


def sha256(path: str | Path) -> str:
    """Hexadecimal SHA-256 of a file's content.

    Args:
        path: Path of the file.
    """
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
