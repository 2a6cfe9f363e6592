"""The site's pages: those of the repository, in its folders, so that links are the same here and there."""

import subprocess
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Replace the files of docs/ by all that git knows, and keep the theme's."""
    tracked = subprocess.run(['git', 'ls-files', '-z'], cwd=ROOT, capture_output=True, check=True, text=True).stdout
    pages = [File(path, str(ROOT), config.site_dir, config.use_directory_urls) for path in tracked.split('\0')[:-1]]
    theme = [file for file in files if file.src_dir != config.docs_dir]
    return Files([*pages, *theme])
