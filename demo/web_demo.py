"""A page in the browser: drop a picture, move a threshold, see masks and where the mask head looks.

It needs gradio (pip install 'mmdet_sag[web]'), and is there for this machine alone unless --host says otherwise.
"""

import argparse
import os
from pathlib import Path

import numpy as np
from demo_arguments import add_arguments, make_predictor

from mmdet_sag.apis import ImagePredictor
from mmdet_sag.command_line import HelpFormatter, run_command
from mmdet_sag.datasets.converters.source_files import IMAGE_SUFFIXES
from mmdet_sag.errors import InputError
from mmdet_sag.models.model_config import type_name
from mmdet_sag.visualization import AttentionRecorder, paste_attention


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    add_arguments(parser)
    parser.add_argument('--host', default='127.0.0.1', help='address to listen at')
    parser.add_argument('--port', type=int, default=7860, help='port to listen at')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    try:
        # Nothing is sent to anyone.
        os.environ.setdefault('GRADIO_ANALYTICS_ENABLED', 'False')
        import gradio
    except ImportError as e:
        raise InputError("the package gradio is not installed: pip install 'mmdet_sag[web]'") from e
    if int(gradio.__version__.split('.')[0]) < 6:
        raise InputError(f'the page needs gradio 6, and {gradio.__version__} is installed: pip install -U gradio')
    page = make_page(gradio, Look(make_predictor(args)), Path(args.config).stem)
    try:
        page.launch(server_name=args.host, server_port=args.port, theme=_theme(gradio), footer_links=[])
    except OSError as e:
        raise InputError(f'port {args.port} of {args.host} cannot be listened at: give another with --port') from e


class Look:
    """What the page shows of an image: predicted once, drawn for every threshold."""

    def __init__(self, predictor: ImagePredictor) -> None:
        self.predictor = predictor
        try:
            self.recorder: AttentionRecorder | None = AttentionRecorder(predictor.inferencer.model)
        except InputError:
            self.recorder = None
        # Tiles have an attention each, and that of classes which are not shown cannot be told apart.
        if predictor.tile_size is not None or predictor.shows_some_classes:
            self.recorder = None

    def predict(self, image: np.ndarray | None, score_thr: float) -> tuple:
        """Predict an image, RGB; returns what :meth:`draw` needs, and what it returns."""
        if image is None:
            return None, None, None, ''
        bgr = np.ascontiguousarray(image[..., 2::-1])
        attention = None
        if self.recorder is None:
            (sample,) = self.predictor.predict([bgr])
        else:
            with self.recorder:
                (sample,) = self.predictor.predict([bgr])
                attention = self.recorder.last
        found = (bgr, sample, attention)
        return (found, *self.draw(found, score_thr))

    def draw(self, found: tuple | None, score_thr: float) -> tuple:
        """Draw a prediction: the masks, the attention, and a sentence."""
        if found is None:
            return None, None, ''
        bgr, sample, attention = found
        masks = self.predictor.draw(bgr, sample, score_thr)[..., ::-1]
        rgb = np.ascontiguousarray(bgr[..., ::-1])
        heat = None
        if attention is not None:
            heat = paste_attention(*attention, sample, sample, score_thr)
            heat = AttentionRecorder.overlay(heat, rgb, width=masks.shape[1])
        if 'pred_instances' not in sample:
            return masks, heat, ''
        number = int((sample.pred_instances.scores >= score_thr).sum())
        best = self.predictor.best_score(sample)
        said = f'{number} of {len(sample.pred_instances)} detections have a score of {score_thr:.2f} or more.'
        if best is None:
            said = 'Nothing was found.'
        elif not number:
            said = f'Nothing has a score of {score_thr:.2f} or more; the best is {best[0]:.3f} ({best[1]}).'
        return masks, heat, said


def example_images(look: Look) -> list[str]:
    """Images of the model's test data or, without them, of the model that comes with the package."""
    dataset = look.predictor.inferencer.cfg.get('test_dataloader', {}).get('dataset', {})
    folder = Path(dataset.get('data_root') or '', (dataset.get('data_prefix') or {}).get('img', ''))
    demo = Path(__file__).with_name('demo.jpg')
    images = sorted(path for path in folder.glob('*') if dataset and path.suffix.lower() in IMAGE_SUFFIXES)[:4]
    shapes = 'crescent' in look.predictor.classes and demo.is_file()
    return [str(path) for path in images or [demo] * shapes]


def make_page(gradio, look: Look, model: str):
    """Build the page of a model of this name."""
    with gradio.Blocks(title=f'{model}: mmdet_sag') as page:
        kind = type_name(look.predictor.inferencer.cfg.model)
        gradio.Markdown(f'# {model}\n{kind}, {len(look.predictor.classes)} classes')
        found = gradio.State()
        score_thr = gradio.Slider(0, 1, look.predictor.score_thr, step=0.01, label='score threshold', elem_id='score')
        said = gradio.Markdown(elem_id='said')
        shown = dict(show_label=False, height=440)
        # Without the one that sends a picture to Hugging Face.
        buttons = ['download', 'fullscreen']
        with gradio.Row():
            with gradio.Column():
                gradio.Markdown('### picture: drop it here')
                image = gradio.Image(type='numpy', elem_id='image', **shown)
            with gradio.Column():
                gradio.Markdown('### masks')
                masks = gradio.Image(interactive=False, elem_id='masks', buttons=buttons, **shown)
            with gradio.Column(visible=look.recorder is not None):
                gradio.Markdown('### where the mask head looks')
                attention = gradio.Image(interactive=False, elem_id='attention', buttons=buttons, **shown)
        if examples := example_images(look):
            gradio.Examples(examples, image, label='example pictures', elem_id='examples')
        outputs = [masks, attention, said]
        image.change(look.predict, [image, score_thr], [found, *outputs], api_name='predict')
        score_thr.change(look.draw, [found, score_thr], outputs, show_progress='hidden')
    return page


def _theme(gradio):
    """Gradio's theme with the machine's fonts: it would fetch others from the internet."""
    return gradio.themes.Default(font=['system-ui', 'sans-serif'], font_mono=['monospace'])


if __name__ == '__main__':
    run_command(main)
