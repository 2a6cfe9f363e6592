"""Adds what pyproject.toml cannot: the package's ``.mim`` folder, the ``.pth`` file beside it, and links for PyPI."""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
PACKAGE = 'mmdet_sag'
# Imports mmdet_sag_operators at the start of Python; pip removes it together with the package.
PTH = 'mmdet_sag_operators.pth'
MIM_ITEMS = ('configs', 'demo', 'tools', 'model-index.yml')
# The demo's run and setup_env.sh write results and an environment into a clone, and users put models into serving.
NOT_INSTALLED = ('__pycache__', 'run.sh', 'run_demo.py', 'result_pictures.py', 'serving', 'setup_env.sh')


class BuildPyWithMim(build_py):
    """Adds the .pth file and ``<package>/.mim``, where MIM looks for what an installed package has besides modules."""

    def run(self) -> None:
        if self.editable_mode:
            # The commands' install folder is the content of the editable wheel.
            site_packages = Path(self.get_finalized_command('install').install_lib)
            self._add_mim(site_packages / PACKAGE / '.mim', self._forward)
            shutil.copy2(ROOT / PTH, site_packages / PTH)
            return
        # setuptools never empties build/: a file that was removed since the last build would be packed again.
        shutil.rmtree(Path(self.build_lib, PACKAGE), ignore_errors=True)
        super().run()
        self._add_mim(self._mim_folder(), shutil.copy2)
        shutil.copy2(ROOT / PTH, Path(self.build_lib, PTH))

    def get_outputs(self, include_bytecode: bool = True) -> list:
        outputs = super().get_outputs(include_bytecode)
        if not self.editable_mode:
            outputs += [str(path) for path in self._mim_folder().rglob('*') if path.is_file()]
            outputs.append(str(Path(self.build_lib, PTH)))
        return outputs

    def _mim_folder(self) -> Path:
        return Path(self.build_lib, PACKAGE, '.mim')

    def _add_mim(self, folder: Path, add) -> None:
        for source in self._mim_sources():
            target = folder / source.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            add(source, target)

    @staticmethod
    def _mim_sources() -> Iterator[Path]:
        for item in MIM_ITEMS:
            path = ROOT / item
            for source in sorted(path.rglob('*')) if path.is_dir() else [path]:
                if source.is_file() and not set(NOT_INSTALLED).intersection(source.relative_to(ROOT).parts):
                    yield source

    @staticmethod
    def _forward(source: Path, target: Path) -> None:
        """Write a file that leads to ``source``, so that an edit takes effect without another install.

        MIM looks beside the metadata of a distribution, which an editable install has in site-packages too,
        and a wheel cannot hold links.
        """
        if source.suffix != '.py':
            shutil.copy2(source, target)
        elif source.is_relative_to(ROOT / 'configs'):
            target.write_text(f'_base_ = {str(source)!r}\n')
        else:
            target.write_text(
                'import runpy\nimport sys\n\n'
                f'sys.path[0] = {str(source.parent)!r}\n'
                f"runpy.run_path({str(source)!r}, run_name='__main__')\n"
            )


def readme() -> str:
    """README.md as PyPI can show it: links within the repository lead to ``REPOSITORY_URL``, if that is set."""
    text = (ROOT / 'README.md').read_text(encoding='utf-8')
    repository = os.environ.get('REPOSITORY_URL')
    if not repository:
        return text

    def absolute(link: re.Match) -> str:
        kind = 'raw' if link[1].endswith(('.png', '.jpg')) else 'blob'
        return f']({repository}/{kind}/main/{link[1]})'

    return re.sub(r'\]\((?!https?:|#)([^)]+)\)', absolute, text)


setup(
    cmdclass={'build_py': BuildPyWithMim},
    long_description=readme(),
    long_description_content_type='text/markdown',
)
