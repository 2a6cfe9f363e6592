"""Formats that are recognised but not read, and what to export instead."""

import re
from pathlib import Path

from .tool_labels import files_that_begin

# Suffix, pattern in the first bytes of a file, tool, what to do there.
_UNREAD = (
    ('.json', r'"data_format_version"\s*:\s*"3', 'VGG Image Annotator 3', 'label images in version 2'),
    ('.csv', r'^#?filename,file_size,', "VGG Image Annotator's CSV", "export annotations 'as json'"),
    ('.json', r'^\s*\[\s*\{.*"(rectangle|polygon|brush)labels"', "Label Studio's JSON-MIN", "export 'JSON'"),
    ('.ndjson', r'"data_row"', 'Labelbox', 'convert it to COCO'),
    ('.json', r'"lastAction"\s*:', 'SuperAnnotate', 'convert it to COCO with its SDK'),
    ('.json', r'darwin_json', 'V7 Darwin', "export 'COCO'"),
)  # fmt: skip


def hint(source: Path) -> str | None:
    """What to export instead, if a file or folder is of a known tool whose format is not read, else None."""
    for suffix, pattern, tool, remedy in _UNREAD:
        if any(files_that_begin(source, suffix, re.compile(pattern, re.DOTALL))):
            return f"'{source}' is of {tool}, which is not read: {remedy}"
    return None
