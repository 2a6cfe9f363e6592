from .atomic import atomic_folder, atomic_write
from .atomic_file_backend import AtomicFileBackend
from .remote import is_remote
from .sha256 import sha256
from .writable import check_writable_file, check_writable_folder

__all__ = [
    'AtomicFileBackend',
    'check_writable_file',
    'check_writable_folder',
    'is_remote',
    'atomic_write',
    'sha256',
    'atomic_folder',
]
