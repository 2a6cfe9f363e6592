from .remote import is_remote
from .sha256 import sha256
from .whole_file import open_whole, whole_folder
from .whole_file_backend import WholeFileBackend
from .writable import check_writable_file, check_writable_folder

__all__ = [
    'WholeFileBackend',
    'check_writable_file',
    'check_writable_folder',
    'is_remote',
    'open_whole',
    'sha256',
    'whole_folder',
]
