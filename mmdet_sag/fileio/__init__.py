from .remote import is_remote
from .whole_file import open_whole, whole_folder
from .whole_file_backend import WholeFileBackend

__all__ = ['WholeFileBackend', 'is_remote', 'open_whole', 'whole_folder']
