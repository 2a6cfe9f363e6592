"""The command ``mmdet-sag``, also ``python -m mmdet_sag``: runs the tools, which a wheel has in its ``.mim`` folder."""

import argparse
import sys
from pathlib import Path

from .version import __version__

# By name: the tool, and what it does.
COMMANDS = {
    'predict': ('demo/image_demo.py', "detect objects in images: pictures, and COCO's format"),
    'predict-video': ('demo/video_demo.py', 'detect objects in a video or in what a camera sees'),
    'web': ('demo/web_demo.py', 'look at predictions in the browser'),
    'convert-data': ('tools/dataset_converters/to_coco.py', 'make a data set of labels in any format'),
    'split-data': ('tools/misc/split_coco.py', 'split a data set into a labelled and an unlabelled part'),
    'check-data': ('tools/misc/check_dataset.py', 'find what is wrong with a data set, and repair it'),
    'make-config': ('tools/misc/make_config.py', 'write a config for your own data'),
    'make-demo-data': ('tools/dataset_converters/make_demo_dataset.py', 'make a small data set of shapes'),
    'train': ('tools/train.py', 'train a model'),
    'test': ('tools/test.py', 'evaluate a checkpoint or an exported model'),
    'report': ('tools/analysis_tools/report.py', 'make one HTML page of what a model can do and where it fails'),
    'export': ('tools/deployment/export.py', 'export a model to ONNX, OpenVINO or TorchScript'),
    'benchmark': ('tools/analysis_tools/benchmark.py', 'measure the speed and memory of models'),
    'convert-checkpoint': ('tools/model_converters/centermask2_to_mmdet.py', "convert the authors' checkpoints"),
}


def tool_path(tool: str) -> Path:
    """Return where a tool is: beside the package in a clone, in the package's ``.mim`` folder in a wheel."""
    package = Path(__file__).resolve().parent
    clone = package.parent / tool
    return clone if clone.is_file() else package / '.mim' / tool


def main() -> None:
    """Run the command that the first argument names, with the others."""
    width = max(map(len, COMMANDS)) + 2
    parser = argparse.ArgumentParser(
        prog='mmdet-sag',
        description='commands:\n' + '\n'.join(f'  {name:{width}}{text}' for name, (_, text) in COMMANDS.items()),
        epilog='mmdet-sag COMMAND --help shows the options of a command',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('--version', action='version', version=f'mmdet_sag {__version__}')
    parser.add_argument('command', choices=COMMANDS, metavar='COMMAND', help='one of these')
    parser.add_argument('arguments', nargs=argparse.REMAINDER, help='its arguments')
    args = parser.parse_args()
    tool = tool_path(COMMANDS[args.command][0])
    sys.argv = [f'mmdet-sag {args.command}', *args.arguments]
    # As of a script: tools import from their own folder. runpy would name them by their files in messages.
    sys.path.insert(0, str(tool.parent))
    exec(compile(tool.read_bytes(), tool, 'exec'), {'__name__': '__main__', '__file__': str(tool)})


if __name__ == '__main__':
    main()
