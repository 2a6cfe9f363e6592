import json

from mmdet_sag.visualization import DEFAULT_SCORE_THR, keep_score_thr, picture_score_thr


def test_a_checkpoint_has_the_threshold_of_its_own_report(tmp_path):
    checkpoint = tmp_path / 'iter_4.pth'
    checkpoint.write_bytes(b'weights')
    assert picture_score_thr(checkpoint) == DEFAULT_SCORE_THR
    keep_score_thr(checkpoint, 0.37, mask_ap=0.8)
    assert picture_score_thr(str(checkpoint)) == 0.37
    # A newer training wrote another model, or another one lies beside it.
    checkpoint.write_bytes(b'other weights')
    (tmp_path / 'iter_8.pth').write_bytes(b'weights')
    assert picture_score_thr(checkpoint) == picture_score_thr(tmp_path / 'iter_8.pth') == DEFAULT_SCORE_THR


def test_an_exported_model_has_the_threshold_of_its_checkpoint(tmp_path):
    (tmp_path / 'report.json').write_text(json.dumps(dict(metadata=dict(picture_score_thr=0.25))))
    assert picture_score_thr(tmp_path / 'model.onnx') == picture_score_thr(tmp_path) == 0.25


def test_without_a_checkpoint_or_with_a_file_that_is_no_report_it_is_the_default(tmp_path):
    for content in ('{"metadata": {}}', '[]', 'no json', '{"score_thr": 0.1}'):
        (tmp_path / 'report.json').write_text(content)
        assert picture_score_thr(tmp_path / 'model.pth') == DEFAULT_SCORE_THR
    assert picture_score_thr(None) == picture_score_thr('https://a.b/model.pth') == DEFAULT_SCORE_THR
