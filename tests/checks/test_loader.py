"""A training whose data make no batch is refused before it starts."""

import pytest
from mmdet.registry import DATASETS
from mmengine.runner import Runner
from PIL import Image
from support.tiny_data_set import HEIGHT, WIDTH

from mmdet_sag.checks import check_inputs
from mmdet_sag.errors import InputError


def epochs(config):
    config.train_cfg = dict(type='ReproducibleEpochBasedTrainLoop', max_epochs=1)


def iterations(config):
    config.train_cfg = dict(type='ReproducibleIterBasedTrainLoop', max_iters=1)


@pytest.fixture
def drops(data):
    """Three images in batches of four, of which the last one is dropped."""
    loader = data.config.train_dataloader
    loader.update(batch_size=4, drop_last=True, sampler=dict(type='DefaultSampler', shuffle=True))
    loader.pop('batch_sampler', None)
    data.config.update(work_dir=str(data.root / 'work'), param_scheduler=[], custom_hooks=[])
    return data


def num_batches(config) -> int:
    return len(Runner.build_dataloader(config.train_dataloader, seed=0))


@pytest.mark.parametrize('loop', [epochs, iterations])
def test_fewer_images_than_a_batch_are_refused_where_the_last_batch_is_dropped(drops, loop):
    loop(drops.config)
    assert num_batches(drops.config) == 0
    message = r'^train_dataloader makes no batch: it has 3 images, batches of 4, .*train_dataloader\.drop_last=False'
    with pytest.raises(InputError, match=message) as refusal:
        check_inputs(drops.config, 'train')
    assert '\n' not in str(refusal.value)

    drops.config.merge_from_dict({'train_dataloader.drop_last': False})
    check_inputs(drops.config, 'train')
    assert num_batches(drops.config) == 1


def test_a_full_batch_passes(drops):
    drops.config.train_dataloader.batch_size = 3
    check_inputs(drops.config, 'train')
    assert num_batches(drops.config) == 1


@pytest.mark.parametrize(
    ('launcher', 'variable'),
    [('pytorch', 'WORLD_SIZE'), ('slurm', 'SLURM_NTASKS'), ('mpi', 'OMPI_COMM_WORLD_SIZE')],
)
@pytest.mark.parametrize(('batch_size', 'fits'), [(3, False), (2, True)])
def test_each_process_needs_a_batch(drops, monkeypatch, launcher, variable, batch_size, fits):
    drops.config.launcher = launcher
    drops.config.train_dataloader.batch_size = batch_size
    monkeypatch.setenv(variable, '2')
    if fits:
        check_inputs(drops.config, 'train')
    else:
        with pytest.raises(InputError, match=r'it has 2 images on each of 2 processes, batches of 3'):
            check_inputs(drops.config, 'train')


def test_images_that_are_filtered_out_do_not_count(drops):
    drops.config.train_dataloader.batch_size = 3
    drops.content['annotations'] = [a for a in drops.content['annotations'] if a['image_id'] != 2]
    drops.write()
    with pytest.raises(InputError, match='it has 2 images'):
        check_inputs(drops.config, 'train')
    assert len(DATASETS.build(drops.train_set)) == 2


@pytest.mark.parametrize(('indices', 'num_images'), [(2, 2), (-1, 1), ([0], 1), (100, 3)])
def test_only_the_images_that_indices_selects_count(drops, indices, num_images):
    drops.train_set.indices = indices
    assert len(DATASETS.build(drops.train_set)) == num_images
    with pytest.raises(InputError, match=f'it has {num_images} images'):
        check_inputs(drops.config, 'train')


def test_indices_beyond_the_images_are_refused(drops):
    drops.train_set.indices = [0, 3]
    with pytest.raises(InputError, match=r'train_dataloader\.dataset\.indices reach beyond the 3 images'):
        check_inputs(drops.config, 'train')


@pytest.mark.parametrize(
    ('wrap', 'fits'),
    [
        (lambda inner: dict(type='RepeatDataset', times=2, dataset=inner), True),
        (lambda inner: dict(type='ConcatDataset', datasets=[inner, inner]), True),
        (lambda inner: dict(type='MultiImageMixDataset', pipeline=[], dataset=inner), False),
        (lambda inner: dict(type='ConcatDataset', datasets=[inner]), False),
    ],
    ids=['repeat', 'concat', 'mix', 'concat of one'],
)
def test_wrappers_are_counted(drops, wrap, fits):
    drops.config.train_dataloader.dataset = wrap(drops.train_set)
    assert (num_batches(drops.config) > 0) == fits
    if fits:
        check_inputs(drops.config, 'train')
    else:
        with pytest.raises(InputError, match='makes no batch'):
            check_inputs(drops.config, 'train')


def test_an_endless_sampler_fills_every_batch(drops):
    drops.config.train_dataloader.sampler = dict(type='InfiniteSampler')
    check_inputs(drops.config, 'train')


def test_batches_of_one_aspect_ratio_need_images_of_one(drops):
    loader = drops.config.train_dataloader
    del loader['drop_last']
    loader.update(batch_size=3, batch_sampler=dict(type='AspectRatioBatchSampler', drop_last=True))
    check_inputs(drops.config, 'train')
    assert len(list(Runner.build_dataloader(loader, seed=0).batch_sampler)) == 1

    Image.new('RGB', (HEIGHT, WIDTH)).save(drops.image_folder / '2.png')
    drops.content['images'][1].update(width=HEIGHT, height=WIDTH)
    drops.write()
    assert len(list(Runner.build_dataloader(loader, seed=0).batch_sampler)) == 0
    with pytest.raises(InputError, match=r'set --cfg-options train_dataloader\.batch_sampler\.drop_last=False'):
        check_inputs(drops.config, 'train')


def test_dropping_is_an_option_of_the_batch_sampler_if_there_is_one(drops):
    drops.config.train_dataloader.batch_sampler = dict(type='AspectRatioBatchSampler')
    with pytest.raises(ValueError, match='mutually exclusive'):
        num_batches(drops.config)
    with pytest.raises(InputError, match=r'set --cfg-options train_dataloader\.batch_sampler\.drop_last=True'):
        check_inputs(drops.config, 'train')
