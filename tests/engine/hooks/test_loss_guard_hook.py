import pytest
import torch
from tiny_training import FewWeights, few_weights_runner

from mmdet_sag.errors import InputError


def test_a_nan_loss_stops_with_the_state_before_it_and_names_the_images(tmp_path):
    torch.manual_seed(0)
    model = FewWeights(bad_image='image_3.png')
    with pytest.raises(InputError, match=r'not finite in iteration \d: loss=nan on .*image_3.png') as error:
        few_weights_runner(tmp_path, 6, model, log_level='ERROR').train()
    iteration = int(str(error.value).split('iteration ')[1].split(':')[0])
    assert iteration > 1, 'the case needs an iteration before the bad image'

    torch.manual_seed(0)
    good = FewWeights()
    few_weights_runner(tmp_path / 'good', iteration - 1, good).train()
    saved = torch.load((tmp_path / 'last_checkpoint').read_text())
    assert saved['meta']['iter'] == iteration - 1
    for key, value in good.state_dict().items():
        assert torch.equal(value, saved['state_dict'][key]), key


def test_finite_losses_pass(tmp_path):
    few_weights_runner(tmp_path, 3, FewWeights()).train()
    assert (tmp_path / 'iter_3.pth').is_file()
