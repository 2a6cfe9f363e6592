import cv2
import pytest
from support.tiny_semi import semi_rectangles_config
from support.tiny_training import build_runner, rectangles_config, write_rectangles

from mmdet_sag.errors import InputError

HOOK = dict(type='PseudoLabelVisualizationHook', interval=2)


def test_pseudo_labels_are_drawn_every_n_iterations_and_change_nothing(tmp_path):
    write_rectangles(tmp_path / 'data')
    config = semi_rectangles_config(tmp_path / 'data')
    plain = build_runner(config, tmp_path / 'plain', **{'train_cfg.max_iters': 4})
    plain.train()
    config.visualizer = dict(type='InstanceLocalVisualizer', vis_backends=[dict(type='LocalVisBackend')], name='pseudo')
    config.custom_hooks.append(HOOK)
    drawing = build_runner(config, tmp_path / 'drawing', **{'train_cfg.max_iters': 4})
    drawing.train()
    pictures = sorted(path for path in (tmp_path / 'drawing').rglob('pseudo_labels*.png'))
    assert [path.stem for path in pictures] == ['pseudo_labels_2', 'pseudo_labels_4']
    assert cv2.imread(str(pictures[0])).std() > 0
    values = drawing.model.state_dict()
    for name, value in plain.model.state_dict().items():
        assert (values[name] == value).all(), name


def test_a_model_without_pseudo_labels_is_refused(tmp_path):
    write_rectangles(tmp_path / 'data')
    config = rectangles_config(tmp_path / 'data')
    config.custom_hooks = [HOOK]
    with pytest.raises(InputError, match='makes no pseudo-labels'):
        build_runner(config, tmp_path / 'run').train()
