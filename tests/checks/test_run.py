"""Broken input stops a run before it starts, with one line that names the thing and the remedy."""

import argparse
import copy
import json
import math
import os
import re
import shlex
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import mmdet
import pytest
import torch
from mmdet.registry import DATASETS, HOOKS, MODELS
from mmengine.config import Config
from PIL import Image

from mmdet_sag.checks import check_inputs
from mmdet_sag.engine.launch import add_arguments
from mmdet_sag.errors import InputError
from mmdet_sag.models.model_config import unfreezing


def _truncate(path, share=0.5):
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def _set(key, value):
    """A change of the first annotation."""

    def change(data):
        data.annotation[key] = value

    return change


def _drop(key):
    def change(data):
        del data.annotation[key]

    return change


def _config(**options):
    """A change of the config; double underscores stand for dots."""

    def change(data):
        data.config.merge_from_dict({key.replace('__', '.'): value for key, value in options.items()})

    return change


def _no_data_root(data):
    for split in ('train', 'val'):
        data.config[f'{split}_dataloader'].dataset.data_root = 'nowhere/'


def _transform(name):
    """A change of the training pipeline, which keeps polygons."""

    def change(data):
        data.train_set.pipeline[1].poly2mask = False
        # RLE, which such a pipeline does not take.
        data.content['annotations'] = [a for a in data.content['annotations'] if not a['iscrowd']]
        data.train_set.pipeline.insert(2, dict(type=name))

    return change


def _copy_paste(data):
    _transform('CopyPaste')(data)
    step = data.train_set.pipeline.pop(2)
    data.config.train_dataloader.dataset = dict(type='MultiImageMixDataset', dataset=data.train_set, pipeline=[step])


def _copy_paste_of_boxes(data):
    _copy_paste(data)
    data.train_set.dataset.pipeline[1].type = 'LoadMaskOrBoxAnnotations'
    data.config.model.roi_head.mask_head.loss_boxes = dict(type='BoxInstLoss')


def _boxes_from_masks(transform):
    """A transform that measures objects by their masks, of data of which some may have none."""

    def change(data):
        _learns_boxes(data)
        data.train_set.pipeline.insert(2, transform)

    return change


def _decoder(backend):
    def change(data):
        data.train_set.pipeline[0].imdecode_backend = backend

    return change


def _logger(name):
    return _config(visualizer__vis_backends=[dict(type='LocalVisBackend'), dict(type=name)])


def _two_validation_sets(ann_file):
    def change(data):
        parts = [data.config.val_dataloader.dataset] * 2
        data.config.val_dataloader.dataset = dict(type='ConcatDataset', datasets=parts)
        data.config.val_evaluator.ann_file = str(data.ann_file) if ann_file else None

    return change


def _measured_apart(data):
    """Makes the validation data two data sets, each with a file and a metric of its own; return the configs of both."""
    other = data.root / 'other.json'
    other.write_bytes(data.ann_file.read_bytes())
    loader, metric = data.config.val_dataloader, data.config.val_evaluator
    parts = [loader.dataset, copy.deepcopy(loader.dataset)]
    parts[1].ann_file = other.name
    loader.dataset = dict(type='ConcatDataset', datasets=parts)
    data.config.val_evaluator = dict(
        type='MultiDatasetsEvaluator',
        metrics=[metric, dict(metric, ann_file=str(other))],
        dataset_prefixes=['own', 'other'],
    )
    data.config.default_hooks.checkpoint.save_best = 'own/coco/segm_mAP'
    return loader.dataset, data.config.val_evaluator


def _second_metric(**options):
    def change(data):
        _measured_apart(data)[1].metrics[1].update(options)

    return change


def _second_data_set(**options):
    def change(data):
        _measured_apart(data)[0].datasets[1].update(options)

    return change


def _evaluator_of_parts(**options):
    def change(data):
        _measured_apart(data)[1].update(options)

    return change


def _second_file_that_is_counted_wrong(data):
    _second_metric(type='CocoMetric')(data)
    content = copy.deepcopy(data.content)
    content['annotations'][0]['id'] = 0
    (data.root / 'other.json').write_text(json.dumps(content))


def _parts_that_are_not_joined(data):
    dataset, _ = _measured_apart(data)
    data.config.val_dataloader.dataset = dataset.datasets[0]


def _best_of_the_parts(data):
    _measured_apart(data)
    data.config.default_hooks.checkpoint.save_best = 'coco/segm_mAP'


def _metric_in_an_evaluator(data):
    data.config.val_evaluator = dict(metrics=dict(data.config.val_evaluator, ann_file='nowhere.json'))


def _wrapped_validation(**options):
    def change(data):
        data.config.val_dataloader.dataset = dict(options, dataset=data.config.val_dataloader.dataset)

    return change


def _other_order_in_validation(data):
    content = copy.deepcopy(data.content)
    content['categories'].reverse()
    (data.root / 'other.json').write_text(json.dumps(content))
    data.config.val_dataloader.dataset.update(ann_file='other.json', metainfo=dict(classes=('dog', 'cat')))
    data.config.val_evaluator.ann_file = str(data.root / 'other.json')


def _no_annotation_file(data):
    data.train_set.ann_file = 'nowhere.json'


def _no_image_folder(data):
    data.train_set.data_prefix.img = 'nowhere/'


def _no_image(data):
    (data.image_folder / '2.png').unlink()


def _text_as_image(data):
    (data.image_folder / '2.png').write_text('404 not found')


def _image_of_another_size(data):
    Image.new('RGB', (30, 30)).save(data.image_folder / '2.png')


def _image_turned_by_exif(data):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new('RGB', (64, 48)).save(data.image_folder / '2.png', exif=exif)


def _tiff_turned_by_exif(data):
    Image.new('RGB', (64, 48)).save(data.image_folder / '2.tif', tiffinfo={0x0112: 6})
    data.content['images'][1]['file_name'] = '2.tif'


def _image_without_width(data):
    del data.content['images'][1]['width']


def _image_of_no_height(data):
    data.content['images'][1]['height'] = 0


def _same_image_id(data):
    data.content['images'][1]['id'] = 1


def _no_images(data):
    data.content['images'] = []


def _no_annotations(data):
    data.content['annotations'] = []


def _only_crowds(data):
    for annotation in data.content['annotations']:
        annotation['iscrowd'] = 1


def _only_empty_boxes(data):
    for annotation in data.content['annotations']:
        annotation['bbox'] = [5, 5, 0, 0]


def _only_small_images(data):
    data.train_set.filter_cfg = dict(filter_empty_gt=True, min_size=100)


def _same_annotation_id(data):
    data.content['annotations'][1]['id'] = 1


def _without(key):
    def change(data):
        del data.content[key]

    return change


def _other_class_names(data):
    for category, name in zip(data.content['categories'], ('horse', 'cow')):
        category['name'] = name


def _classes_in_other_order(data):
    data.content['categories'].reverse()


def _same_category_name(data):
    data.content['categories'].append(dict(id=3, name='cat'))


def _same_category_id(data):
    data.content['categories'].append(dict(id=1, name='bird'))


def _category_without_name(data):
    data.content['categories'].append(dict(id=3))


def _forgotten_metainfo(data):
    del data.train_set['metainfo']


def _classes_as_a_string(data):
    data.train_set.metainfo = dict(classes='cat')


def _empty_checkpoint(data):
    path = data.root / 'weights.pth'
    path.touch()
    data.config.load_from = str(path)


def _truncated_checkpoint(data):
    path = data.root / 'weights.pth'
    torch.save(dict(state_dict=dict(weight=torch.zeros(1000))), path)
    _truncate(path)
    data.config.load_from = str(path)


def _flipped_bit(data):
    path = data.root / 'weights.pth'
    torch.save(dict(state_dict=dict(weight=torch.zeros(1000))), path)
    content = bytearray(path.read_bytes())
    content[2000] ^= 4
    path.write_bytes(content)
    data.config.load_from = str(path)


def _web_page_as_checkpoint(data):
    path = data.root / 'weights.pth'
    path.write_text('<html>404</html>')
    data.config.load_from = str(path)


def _folder_as_checkpoint(data):
    data.config.load_from = str(data.root)


def _missing_pretrained_weights(data):
    data.config.model.backbone.init_cfg = dict(type='Pretrained', checkpoint='nowhere.pth')


def _truncated_pretrained_weights(data):
    _truncated_checkpoint(data)
    data.config.model.backbone.init_cfg = dict(type='Pretrained', checkpoint=data.config.pop('load_from'))


def _pipeline_without_masks(data):
    data.train_set.pipeline[1].with_mask = False


def _learns_boxes(data, **loading):
    """Makes the model one that learns masks from boxes, of data whose first object has no mask."""
    data.train_set.pipeline[1].update(type='LoadMaskOrBoxAnnotations', **loading)
    data.config.model.roi_head.mask_head.loss_boxes = dict(type='BoxInstLoss')
    data.config.val_cfg = data.config.val_dataloader = data.config.val_evaluator = None
    del data.annotation['segmentation']


def _no_loss_of_boxes(data):
    _learns_boxes(data)
    del data.config.model.roi_head.mask_head.loss_boxes


def _mask_iou_head_without_masks(data):
    _learns_boxes(data, boxes_only=True)


def _evaluator_of_other_images(data):
    other = copy.deepcopy(data.content)
    other['images'].pop()
    path = data.root / 'other.json'
    data.content, content = other, data.content
    data.ann_file, ann_file = path, data.ann_file
    data.write()
    data.content, data.ann_file = content, ann_file
    data.config.val_evaluator.ann_file = str(path)


def _evaluator_that_counts_wrong(data):
    data.content['annotations'][0]['id'] = 0
    data.config.val_evaluator.type = 'CocoMetric'


def _model_without_type(data):
    del data.config.model['type']


def _unused_option(data):
    data.train_set.ann_fil = 'annotations.json'


# What is broken, and what the one line says: the thing, then the remedy.
BROKEN = {
    'missing data folder': (_no_data_root, r"data folder 'nowhere/' .*train_dataloader\.dataset\.data_root=DIR"),
    'missing annotation file': (_no_annotation_file, r'nowhere\.json.* does not exist.*dataset\.ann_file=FILE'),
    'missing image folder': (_no_image_folder, r"image folder '.*nowhere/' .*data_prefix\.img=DIR"),
    'missing image': (_no_image, r"1 of 3 images .*'2\.png'.*--fix"),
    'image that is text': (_text_as_image, r"image '.*2\.png' cannot be decoded: replace it"),
    'image of another size': (_image_of_another_size, r"image '.*2\.png' is not 64 x 48 .*--fix"),
    'image turned by EXIF': (_image_turned_by_exif, r"image '.*2\.png' is turned by its EXIF orientation.*--fix"),
    'TIFF turned by EXIF': (_tiff_turned_by_exif, r"image '.*2\.tif' is turned by its EXIF orientation.*--fix"),
    'image entry without width': (_image_without_width, r'1 image entries without a usable .*entry 1.*--fix'),
    'image entry of height zero': (_image_of_no_height, r'1 image entries without a usable .*entry 1.*--fix'),
    'image id used twice': (_same_image_id, r'1 image ids used more than once, e\.g\. image 1: run'),
    'no images': (_no_images, r'data set is empty: .*lists no images: name another file'),
    'no annotations': (_no_annotations, r'data set is empty: none of the 0 annotations .*name another file'),
    'only crowd regions': (_only_crowds, r'data set is empty: none of the 7 annotations .*crowd regions'),
    'only empty boxes': (_only_empty_boxes, r'data set is empty: none of the 7 annotations .*empty boxes'),
    'only images under min_size': (_only_small_images, r'smaller than 100 pixels: .*filter_cfg\.min_size=1'),
    'annotation id used twice': (
        _same_annotation_id,
        r'1 annotation ids used more than once, e\.g\. annotation 1: run',
    ),
    'file without images': (_without('images'), r"not in COCO's format: it has no images; export"),
    'file without annotations': (_without('annotations'), r"not in COCO's format: it has no annotations; export"),
    'file without categories': (_without('categories'), r"not in COCO's format: it has no categories; export"),
    'other class names': (_other_class_names, r"has no class 'cat', 'dog' .*it has 'horse', 'cow': set .*metainfo"),
    'classes in another order': (_classes_in_other_order, r"'cat' stands where the file has 'dog'.*list them"),
    'category name used twice': (_same_category_name, r"1 category names used more than once.*'cat': correct"),
    'category id used twice': (_same_category_id, r"1 category ids used more than once.*'1': correct"),
    'category without name': (_category_without_name, r'1 categories without a usable id or name.*: correct'),
    'annotation without id': (_drop('id'), r'1 annotations that lack a key, e\.g\. entry 0: run'),
    'annotation without image id': (_drop('image_id'), r'1 annotations that lack a key, e\.g\. entry 0: run'),
    'annotation without box': (_drop('bbox'), r'1 annotations without bbox, e\.g\. annotation 1: run'),
    'annotation without area': (_drop('area'), r'1 annotations without area, e\.g\. annotation 1: run'),
    'annotation without mask': (_drop('segmentation'), r'1 annotations without a mask, e\.g\. annotation 1: run'),
    'annotation with empty mask': (_set('segmentation', []), r'1 annotations without a mask, e\.g\. annotation 1: run'),
    'mask as flat list': (_set('segmentation', [1, 2, 9, 2, 9, 9]), r'1 masks that are neither a list of polygons'),
    'mask with text': (_set('segmentation', [[1, 2, 9, 2, 9, 'x']]), r'1 masks that are neither a list of polygons'),
    'NaN in a polygon': (_set('segmentation', [[1, 2, 9, 2, 9, math.nan]]), r'1 polygons with NaN.*--fix'),
    'infinity in a polygon': (_set('segmentation', [[1, 2, 9, 2, 9, math.inf]]), r'1 polygons with NaN.*--fix'),
    'absurdly large polygon': (_set('segmentation', [[1, 2, 9, 2, 9, 1e12]]), r'1 polygons with NaN.*--fix'),
    'RLE of another size': (
        _set('segmentation', dict(size=[10, 10], counts=[50, 20, 30])),
        r'1 RLE masks of another size than their image, e\.g\. annotation 1: run',
    ),
    'RLE with too few runs': (
        _set('segmentation', dict(size=[48, 64], counts=[50, 20, 30])),
        r'1 RLE masks that cannot be decoded, e\.g\. annotation 1: run',
    ),
    'compressed RLE of garbage': (
        _set('segmentation', dict(size=[48, 64], counts='garbage')),
        r'1 RLE masks that cannot be decoded, e\.g\. annotation 1: run',
    ),
    'RLE without counts': (_set('segmentation', dict(size=[48, 64])), r'1 masks that are neither'),
    'box of three numbers': (_set('bbox', [1, 2, 3]), r'1 boxes that are not four numbers, e\.g\. annotation 1: run'),
    'NaN in a box': (_set('bbox', [1, 2, math.nan, 4]), r'1 boxes with NaN or infinite numbers.*--fix'),
    'area that is text': (_set('area', 'large'), r'1 areas that are not a finite number.*--fix'),
    'wrong class count of one head': (
        _config(model__bbox_head__num_classes=80),
        r'model\.bbox_head\.num_classes is 80, but .* has 2 classes: set .*model\.bbox_head\.num_classes=2',
    ),
    'wrong class count of all heads': (
        _config(
            model__bbox_head__num_classes=80,
            model__roi_head__mask_head__num_classes=80,
            model__roi_head__mask_iou_head__num_classes=80,
        ),
        r'set --cfg-options model\.bbox_head\.num_classes=2 model\.roi_head\.mask_head\.num_classes=2 '
        r'model\.roi_head\.mask_iou_head\.num_classes=2',
    ),
    'forgotten class names': (_forgotten_metainfo, r'num_classes is 2, but .* has 80 classes.*metainfo\.classes'),
    'class names as one string': (_classes_as_a_string, r"is the string 'cat': give a tuple of names"),
    'unknown data set class': (
        _config(train_dataloader__dataset__type='CocoDataSet'),
        r"train_dataloader\.dataset\.type: no data set class 'CocoDataSet' is registered",
    ),
    'unknown data set option': (_unused_option, r"train_dataloader\.dataset is not a valid config .*'ann_fil'"),
    'unknown mask head': (
        _config(model__roi_head__mask_head__type='SAGMaskHed'),
        r"model\.roi_head\.mask_head\.type: no class 'SAGMaskHed' is registered; did you mean 'SAGMaskHead'\?",
    ),
    'backbone of a package that is not installed': (
        _config(model__backbone__type='nopackage.ResNet'),
        r"model\.backbone\.type: no class 'nopackage\.ResNet' is registered; is nopackage not installed\?",
    ),
    'model without type': (_model_without_type, r'model has no type: name the class to build'),
    'no training data in the config': (_config(train_dataloader=None), r'the config has no train_dataloader: add it'),
    'unknown option of a data loader': (
        _config(train_dataloader__num_wrkers=2),
        r"train_dataloader has no option 'num_wrkers'; its options are dataset, batch_size, shuffle, sampler",
    ),
    'workers that persist but do not exist': (
        _config(train_dataloader__num_workers=0),
        r'persistent_workers=True needs workers: set --cfg-options train_dataloader\.persistent_workers=False',
    ),
    'objects without mask for a head of masks': (
        _no_loss_of_boxes,
        r'roi_head\.mask_head has no loss_boxes to .*: inherit',
    ),
    'MaskIoU head without masks': (
        _mask_iou_head_without_masks,
        r'mask_iou_head learns from masks, and no .* any: set --cfg-options model\.roi_head\.mask_iou_head=None',
    ),
    'pipeline without masks': (_pipeline_without_masks, r'loads no masks: set with_mask=True'),
    'missing pretrained weights': (
        _missing_pretrained_weights,
        r"pretrained weights 'nowhere\.pth' .*docs/checkpoints\.md.*model\.backbone\.init_cfg=None "
        r'model\.backbone\.norm_cfg\.requires_grad=True model\.backbone\.norm_eval=False',
    ),
    'truncated pretrained weights': (
        _truncated_pretrained_weights,
        r'init_cfg\.checkpoint\) is damaged or truncated .*: copy',
    ),
    'missing checkpoint': (_config(load_from='nowhere.pth'), r"checkpoint 'nowhere\.pth' \(load_from\) does not exist"),
    'empty checkpoint': (_empty_checkpoint, r'weights\.pth. \(load_from\) is empty: copy'),
    'truncated checkpoint': (_truncated_checkpoint, r'weights\.pth. \(load_from\) is damaged or truncated .*: copy'),
    'flipped bit in a checkpoint': (_flipped_bit, r'weights\.pth. \(load_from\) is damaged .*checksum of .*: copy'),
    'web page as checkpoint': (_web_page_as_checkpoint, r'is not a PyTorch checkpoint: copy or download'),
    'folder as checkpoint': (_folder_as_checkpoint, r'is a folder, not a file: give the path'),
    'evaluator without its file': (
        _config(val_evaluator__ann_file='nowhere.json'),
        r"'nowhere\.json' \(val_evaluator\.ann_file\) does not exist: set .*annotations\.json",
    ),
    'evaluator that counts wrong': (
        _evaluator_that_counts_wrong,
        r'ids that are not positive numbers, which CocoMetric counts wrong: .*val_evaluator\.type=UnroundedCocoMetric',
    ),
    'evaluator without a file': (
        _config(val_evaluator__ann_file=None),
        r'val_evaluator has no ann_file, .*set --cfg-options val_evaluator\.ann_file=.*annotations\.json',
    ),
    **{
        f'two validation sets and {"a" if ann_file else "no"} file': (
            _two_validation_sets(ann_file),
            "val_evaluator cannot measure 2 data sets, .*: use .*type='MultiDatasetsEvaluator'",
        )
        for ann_file in (True, False)
    },
    'missing file of a second metric': (
        _second_metric(ann_file='nowhere.json'),
        r"'nowhere\.json' \(val_evaluator\.metrics\.1\.ann_file\) does not exist: set .*metrics\.1.*other\.json",
    ),
    'second metric without a file': (
        _second_metric(ann_file=None),
        r'metrics\.1 has no ann_file, .*metrics\.1\.ann_file=.*other\.json',
    ),
    'metric in an evaluator': (_metric_in_an_evaluator, r'\(val_evaluator\.metrics\.ann_file\) does not exist'),
    'second file that is counted wrong': (
        _second_file_that_is_counted_wrong,
        r"other\.json' has annotation ids .*counts wrong: set .*val_evaluator\.metrics\.1\.type=UnroundedCocoMetric",
    ),
    'missing second validation set': (_second_data_set(ann_file='nowhere.json'), r'datasets\.1\.ann_file=FILE'),
    'validation sets that differ': (
        _second_data_set(metainfo=dict(classes=('cat', 'dog'), palette=[(0, 0, 0), (1, 1, 1)])),
        r'datasets\.0 and .*datasets\.1 differ in metainfo\.palette: set the same in both',
    ),
    'more data sets than prefixes': (
        _evaluator_of_parts(dataset_prefixes=['own', 'own']),
        '2 datasets in val_dataloader.dataset, 2 metrics and 1 different dataset_prefixes: give as many',
    ),
    'validation sets that are not joined': (_parts_that_are_not_joined, 'there are 0 datasets in val_dataloader'),
    'evaluator with inherited options': (
        _evaluator_of_parts(classwise=True),
        r"unexpected keyword argument 'classwise': write val_evaluator=dict\(_delete_=True",
    ),
    'unknown evaluator': (_evaluator_of_parts(type='Evaluators'), "no evaluator 'Evaluators' is registered"),
    'best checkpoint of several data sets': (
        _best_of_the_parts,
        "save_best is 'coco/segm_mAP', which .* does not compute: set .*save_best=own/coco/segm_mAP$",
    ),
    'validation data that repeat images': (
        _wrapped_validation(type='RepeatDataset', times=2),
        r'val_dataloader\.dataset repeats images, .*: set --cfg-options val_dataloader\.dataset\.times=1',
    ),
    'validation data that balance classes': (
        _wrapped_validation(type='ClassBalancedDataset', oversample_thr=0.5),
        r'repeats images, .*: set --cfg-options val_dataloader\.dataset\.oversample_thr=0',
    ),
    'class named twice': (
        _config(train_dataloader__dataset__metainfo=dict(classes=('cat', 'cat'))),
        r"train_dataloader\.dataset\.metainfo\.classes names 'cat' more than once: name each class once",
    ),
    'classes in another order in validation': (
        _other_order_in_validation,
        'train_dataloader.dataset and val_dataloader.dataset have the same metainfo.classes in another order',
    ),
    'best checkpoint by what is not computed': (
        _config(val_evaluator__metric='proposal_fast', default_hooks__checkpoint__save_best='coco/segm_mAP'),
        r"save_best is 'coco/segm_mAP', which val_evaluator does not compute: set --cfg-options .*=auto, or add 'segm'",
    ),
    **{
        f'{name} on polygons': (
            _transform(name),
            rf'pipeline\.2\.type: {name} does not take polygons: set .*\.dataset\.pipeline\.1\.poly2mask=True',
        )
        for name in ('RandomErasing', 'Expand')
    },
    'CopyPaste on polygons': (
        _copy_paste,
        r'set --cfg-options train_dataloader\.dataset\.pipeline\.0\.type=CopyPasteWithPolygons$',
    ),
    'CopyPaste of one image': (_transform('CopyPaste'), r'pipeline\.2\.type: CopyPaste mixes images: .*MultiImageMix'),
    'CopyPaste of boxes': (_copy_paste_of_boxes, 'CopyPaste .*from their masks, .*dataset.dataset may .*: leave'),
    'crop that measures masks, of boxes': (
        _boxes_from_masks(dict(type='RandomCrop', crop_size=(8, 8), recompute_bbox=True)),
        r'RandomCrop .* may have objects without mask: set .*pipeline\.2\.recompute_bbox=False',
    ),
    'filter of masks, of boxes': (
        _boxes_from_masks(dict(type='FilterAnnotations', by_mask=True)),
        r'FilterAnnotations .*: set --cfg-options .*pipeline\.2\.by_mask=False',
    ),
    **{
        f'{name} with masks': (_transform(name), f'{name} does not change masks: use {other}')
        for name, other in (('Mosaic', 'CachedMosaic'), ('RandomAffine', 'Rotate'), ('RandomShift', 'TranslateX'))
    },
    **{
        f'{name} without its package': (_transform(name), f"{name} needs .*: run 'pip install {package}', or leave")
        for name, package in (('Corrupt', 'imagecorruptions'), ('InstaBoost', 'instaboostfast'))
        if find_spec(package) is None
    },
    **{
        f'logger without its package: {name}': (
            _logger(name),
            rf"vis_backends\.1\.type: {name} needs {name[:-10].lower()}: run 'pip install .*', or leave the backend",
        )
        for name in ('WandbVisBackend', 'MLflowVisBackend', 'DVCLiveVisBackend', 'AimVisBackend')
        if find_spec(name[:-10].lower()) is None
    },
    'constructor that does not know the backbone': (
        _config(optim_wrapper__constructor='LearningRateDecayOptimizerConstructor'),
        'constructor: .* knows the layers of ConvNeXt alone, and model.backbone is VoVNet: .*=DefaultOptim',
    ),
    'decoder that does not exist': (_decoder('opencv'), r"imdecode_backend is 'opencv', .*imdecode_backend=cv2"),
    'decoder that needs a call': (_decoder('turbojpeg'), r"is 'turbojpeg', which .*pipeline\.0\.imdecode_backend=cv2"),
    'evaluator of other images': (_evaluator_of_other_images, r'val_evaluator\.ann_file is .*which lists others: set'),
}


@pytest.mark.parametrize('what', BROKEN)
def test_broken_input_is_refused_with_one_line(data, what):
    change, message = BROKEN[what]
    change(data)
    data.write()
    with pytest.raises(InputError, match=message) as refusal:
        check_inputs(data.config, 'train')
    assert '\n' not in str(refusal.value)


@pytest.mark.parametrize('text, refused', [('x.astype(dtype=np.float)', True), ('x.astype(dtype=np.float64)', False)])
def test_a_package_for_lvis_that_is_older_than_numpy_is_refused(data, monkeypatch, text, refused):
    (data.root / 'lvis').mkdir()
    (data.root / 'lvis/__init__.py').write_text('')
    (data.root / 'lvis/eval.py').write_text(text)
    monkeypatch.syspath_prepend(str(data.root))
    monkeypatch.delitem(sys.modules, 'lvis', raising=False)
    data.config.val_evaluator.type = 'LVISMetric'
    if refused:
        with pytest.raises(
            InputError, match=r"uses np.float, .*: run sed -i 's/np\\.float\\b/float/' '.*lvis/eval.py'"
        ):
            check_inputs(data.config, 'train')
    else:
        check_inputs(data.config, 'train')


def test_images_of_two_validation_sets_in_one_file_pass(data):
    data.config.val_dataloader.dataset.indices = [0]
    other = copy.deepcopy(data.config.val_dataloader.dataset)
    other.indices = [1, 2]
    data.config.val_dataloader.dataset = dict(
        type='ConcatDataset', datasets=[data.config.val_dataloader.dataset, other]
    )
    check_inputs(data.config, 'train')


@pytest.mark.parametrize(
    'change',
    [
        _measured_apart,
        _wrapped_validation(type='RepeatDataset', times=1),
        _wrapped_validation(type='ClassBalancedDataset', oversample_thr=0),
        _wrapped_validation(type='MultiImageMixDataset', pipeline=[]),
    ],
)
def test_sound_validation_data_in_wrappers_pass(data, change):
    change(data)
    check_inputs(data.config, 'train')


def test_data_sets_with_a_metric_each_may_differ_where_no_hook_compares_them(data):
    _second_data_set(metainfo=dict(classes=('cat', 'dog'), palette=[(0, 0, 0), (1, 1, 1)]))(data)
    del data.config.default_hooks.class_count
    check_inputs(data.config, 'train')


@pytest.mark.parametrize('mode', ['train', 'test'])
def test_sound_input_passes(data, mode):
    check_inputs(data.config, mode)


@pytest.mark.parametrize('text', ['', '{"images": [{"id": 1', '\x00\x01'], ids=repr)
def test_an_annotation_file_that_is_not_json_is_refused(data, text):
    data.ann_file.write_text(text)
    with pytest.raises(InputError, match='is not valid JSON .*copy or export it again') as refusal:
        check_inputs(data.config, 'train')
    assert '\n' not in str(refusal.value)


@pytest.mark.parametrize('encoding', ['utf-8-sig', 'utf-16'])
def test_an_annotation_file_in_an_encoding_that_mmdetection_does_not_read_is_refused(data, encoding):
    data.ann_file.write_text(json.dumps(data.content), encoding=encoding)
    with pytest.raises(InputError, match='is not valid JSON .*: save it as UTF-8 without BOM'):
        check_inputs(data.config, 'train')


def test_a_file_of_results_is_refused_as_annotations(data):
    data.ann_file.write_text('[{"image_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}]')
    with pytest.raises(InputError, match='a file of results cannot be used here'):
        check_inputs(data.config, 'train')


@pytest.mark.parametrize(
    ('key', 'value', 'message'),
    [
        ('iscrowd', None, '1 annotations without iscrowd'),
        ('segmentation', [[1, 2, 9, 9]], '1 polygons of fewer than 3 points'),
    ],
)
def test_what_only_cocos_evaluation_fails_on_is_refused_for_validation_data_alone(data, key, value, message):
    if value is None:
        del data.annotation[key]
    else:
        data.annotation[key] = value
    data.write()
    with pytest.raises(InputError, match=message):
        check_inputs(data.config, 'test')
    data.config.val_cfg = data.config.val_dataloader = data.config.val_evaluator = None
    check_inputs(data.config, 'train')


@pytest.mark.parametrize(
    ('key', 'value', 'noted'),
    [
        ('bbox', [5, 5, 0, 8], '1 boxes of zero or negative width'),
        ('bbox', [500, 5, 8, 8], '1 boxes entirely outside'),
        ('area', 0, '1 areas of zero'),
        ('segmentation', [[1, 2, 9, 9, 5, 5, 5]], '1 polygons with an odd number of coordinates'),
        ('category_id', 99, '1 annotations of a category that is not listed'),
        ('image_id', 99, '1 annotations of an image that is not listed'),
    ],
)
def test_what_training_skips_is_noted_in_one_line_of_the_log(data, monkeypatch, key, value, noted):
    lines = []
    monkeypatch.setattr('mmengine.logging.print_log', lambda line, **_: lines.append(line))
    data.annotation[key] = value
    data.write()
    check_inputs(data.config, 'train')
    # MMEngine's registries write lines of their own.
    lines = [line for line in lines if noted in line]
    assert [line.split('.')[0] for line in lines] == ['train_dataloader', 'val_dataloader']
    assert all('check-data' in line and '\n' not in line for line in lines)


def _count_from_0(data):
    for annotation in data.content['annotations']:
        annotation['category_id'] -= 1


def _categories_from_0(data):
    for category in data.content['categories']:
        category['id'] -= 1


def _ids_as_text(data):
    for annotation in data.content['annotations']:
        annotation['category_id'] = str(annotation['category_id'])


def _many_strays(data):
    for annotation in data.content['annotations'][:2]:
        annotation['category_id'] = 99


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (_count_from_0, r'4 annotations .* annotation 1: .*alike'),
        (_categories_from_0, r'count from 0 and from 1.*alike'),
        (_ids_as_text, r'7 annotations whose category id is a text .*as numbers'),
        (_many_strays, r'2 annotations, a large share of the file, .*list all'),
    ],
)
def test_category_ids_that_do_not_fit_the_file_are_refused_with_the_cause(data, change, message):
    change(data)
    data.write()
    for mode in ('train', 'test'):
        with pytest.raises(InputError, match=message):
            check_inputs(data.config, mode)


def test_class_names_with_spaces_are_recommended_in_a_form_that_works(data):
    for category, name in zip(data.content['categories'], ('red car', 'blue car')):
        category['name'] = name
    data.write()
    with pytest.raises(InputError) as error:
        check_inputs(data.config, 'train')
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    for split in ('train', 'val'):
        (option,) = re.findall('--cfg-options "([^"]*)"', str(error.value).replace('train_', f'{split}_'))
        data.config.merge_from_dict(parser.parse_args(['config.py', '--cfg-options', option]).cfg_options)
    check_inputs(data.config, 'train')


def _yolo(root):
    for name in ('labels/train', 'images/train'):
        (root / name).mkdir(parents=True)
    (root / 'labels/train/1.txt').write_text('0 0.1 0.1 0.9 0.1 0.9 0.9\n')
    (root / 'data.yaml').write_text('names: [cat, dog]\n')


@pytest.mark.parametrize('name', ['', 'data.yaml', 'labels/train', 'labels/train/1.txt', 'annotations.json'])
def test_labels_of_yolo_are_recognised_and_the_converter_named(data, tmp_path, name):
    root = tmp_path / 'yolo'
    _yolo(root)
    data.train_set.update(data_root=f'{root}/', ann_file=name or str(root))
    with pytest.raises(InputError, match=rf"labels of YOLO.*mmdet-sag convert-data {root}\S* --out DIR'"):
        check_inputs(data.config, 'train')


@pytest.mark.parametrize('missing', [1, 7], ids=['one', 'all'])
def test_objects_without_mask_pass_where_they_are_learnt_from_boxes(data, missing):
    _learns_boxes(data)
    for annotation in data.content['annotations'][:missing]:
        annotation['segmentation'] = []
    if missing > 1:
        data.config.model.roi_head.mask_iou_head = None
    data.write()
    check_inputs(data.config, 'train')
    # A mask that is there is checked.
    data.annotation['segmentation'] = 'nothing'
    data.write()
    with pytest.raises(InputError, match='1 masks that are neither'):
        check_inputs(data.config, 'train')


@pytest.mark.parametrize('mask', ['nothing', dict(size=[48, 64], counts=[48 * 64])], ids=['broken', 'RLE'])
def test_masks_that_are_left_out_are_not_checked(data, mask):
    _learns_boxes(data, boxes_only=True, poly2mask=False)
    data.config.model.roi_head.mask_iou_head = None
    data.annotation['segmentation'] = mask
    data.write()
    check_inputs(data.config, 'train')
    data.config.train_dataloader.dataset.pipeline[1].boxes_only = False
    with pytest.raises(InputError, match='annotation file .*mask'):
        check_inputs(data.config, 'train')


@pytest.mark.parametrize('wrap', [dict, lambda metric: [metric], lambda metric: dict(metrics=[metric])])
def test_the_remedy_for_validation_data_without_masks_works(data, wrap):
    data.config.test_evaluator = wrap(data.config.test_evaluator)
    del data.annotation['segmentation']
    data.write()
    with pytest.raises(InputError, match=r'1 annotations without a mask.*: measure the boxes alone') as refusal:
        check_inputs(data.config, 'test')
    options = str(refusal.value).partition('--cfg-options ')[2].split()
    data.config.merge_from_dict(dict(option.split('=') for option in options))
    check_inputs(data.config, 'test')


def test_the_mask_of_a_skipped_annotation_does_no_harm_in_training(data):
    data.annotation.update(bbox=[5, 5, 0, 0], segmentation=[])
    data.write()
    data.config.val_cfg = data.config.val_dataloader = data.config.val_evaluator = None
    check_inputs(data.config, 'train')


def test_test_images_without_annotations_pass_where_results_are_only_formatted(data):
    del data.content['annotations']
    data.write()
    with pytest.raises(InputError, match='it has no annotations'):
        check_inputs(data.config, 'test')
    data.config.test_evaluator.update(format_only=True, outfile_prefix='results')
    check_inputs(data.config, 'test')


def test_testing_needs_no_pretrained_weights(data):
    data.config.model.backbone.init_cfg = dict(type='Pretrained', checkpoint='nowhere.pth')
    check_inputs(data.config, 'test')


def _follow(data, error):
    """Merge the options that a message recommends."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    options = shlex.split(str(error.value).partition('--cfg-options ')[2])
    data.config.merge_from_dict(parser.parse_args(['config.py', '--cfg-options', *options]).cfg_options)


@pytest.mark.parametrize('in_list', [False, True])
def test_the_remedy_for_missing_pretrained_weights_trains_all_of_the_backbone(data, in_list):
    backbone = data.config.model.backbone
    pretrained = dict(type='Pretrained', checkpoint='nowhere.pth')
    backbone.init_cfg = [dict(type='Kaiming', layer='Conv2d'), pretrained] if in_list else pretrained
    assert unfreezing(backbone)
    with pytest.raises(InputError, match=r'nowhere\.pth.* model\.backbone\.init_cfg=None ') as error:
        check_inputs(data.config, 'train')
    _follow(data, error)
    check_inputs(data.config, 'train')
    assert not unfreezing(data.config.model.backbone)


def test_missing_pretrained_weights_are_left_to_the_checkpoint_that_is_loaded(data):
    data.config.load_from = str(data.root / 'weights.pth')
    torch.save(dict(state_dict={}), data.config.load_from)
    data.config.model.backbone.init_cfg = dict(type='Pretrained', checkpoint='nowhere.pth')
    with pytest.raises(InputError, match=r'leave them to load_from with .* model\.backbone\.init_cfg=None$') as error:
        check_inputs(data.config, 'train')
    _follow(data, error)
    check_inputs(data.config, 'train')


def test_the_remedy_for_a_wrong_class_count_works(data):
    data.config.model.bbox_head.num_classes = 7
    with pytest.raises(InputError) as refusal:
        check_inputs(data.config, 'train')
    option = next(word for word in str(refusal.value).split() if word.startswith('model.') and '=' in word)
    key, value = option.rstrip(',').split('=')
    data.config.merge_from_dict({key: int(value)})
    check_inputs(data.config, 'train')


@pytest.mark.parametrize('own', [None, 'nowhere.json', 'other.json'])
def test_the_remedy_for_an_evaluator_s_file_works_with_a_space_in_its_path(data, own):
    data.write()
    path = shutil.copy(data.ann_file, data.root / 'my labels (2).json')
    data.config.val_dataloader.dataset.ann_file = str(path)
    _evaluator_of_other_images(data)
    data.config.val_evaluator.ann_file = own and str(data.root / own)
    with pytest.raises(InputError) as error:
        check_inputs(data.config, 'train')
    _follow(data, error)
    check_inputs(data.config, 'train')
    assert data.config.val_evaluator.ann_file == str(path)


def test_the_remedy_for_pasting_polygons_works(data):
    _copy_paste(data)
    data.write()
    with pytest.raises(InputError, match='CopyPasteWithPolygons') as error:
        check_inputs(data.config, 'train')
    _follow(data, error)
    check_inputs(data.config, 'train')


@pytest.mark.parametrize(
    ('wrap', 'place'),
    [
        (lambda inner: dict(type='RepeatDataset', times=2, dataset=inner), 'dataset.dataset'),
        (lambda inner: dict(type='ClassBalancedDataset', oversample_thr=0.1, dataset=inner), 'dataset.dataset'),
        (lambda inner: dict(type='MultiImageMixDataset', pipeline=[], dataset=inner), 'dataset.dataset'),
        (lambda inner: dict(type='ConcatDataset', datasets=[inner, inner]), 'dataset.datasets.0'),
        (
            lambda inner: dict(type='RepeatDataset', times=2, dataset=dict(type='ConcatDataset', datasets=[inner])),
            'dataset.dataset.datasets.0',
        ),
    ],
    ids=['repeat', 'class balanced', 'mix', 'concat', 'repeat of concat'],
)
def test_data_sets_are_found_inside_wrappers(data, wrap, place):
    data.config.train_dataloader.dataset = wrap(data.train_set)
    check_inputs(data.config, 'train')
    data.ann_file.unlink()
    with pytest.raises(InputError, match=rf'train_dataloader\.{place}\.ann_file=FILE'):
        check_inputs(data.config, 'train')


def test_every_head_of_a_cascade_is_checked(data):
    heads = [dict(type='Shared2FCBBoxHead', num_classes=count) for count in (2, 80, 2)]
    data.config.model = dict(
        type='CascadeRCNN',
        backbone=dict(type='ResNet', depth=50),
        roi_head=dict(type='CascadeRoIHead', bbox_head=heads, mask_head=dict(type='SAGMaskHead', num_classes=2)),
        rpn_head=dict(type='RPNHead', num_classes=1),
    )
    with pytest.raises(InputError, match=r'^model\.roi_head\.bbox_head\.1\.num_classes is 80, but'):
        check_inputs(data.config, 'train')


def test_a_head_that_leaves_its_class_count_to_the_default_is_checked(data):
    del data.config.model.roi_head.mask_head['num_classes']
    with pytest.raises(InputError, match=r'model\.roi_head\.mask_head\.num_classes is 80, but'):
        check_inputs(data.config, 'train')


@pytest.mark.parametrize(
    'name',
    [
        'cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py',
        'mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py',
        'ms_rcnn/ms-rcnn_r50-caffe_fpn_1x_coco.py',
        'yolact/yolact_r50_1xb8-55e_coco.py',
        'boxinst/boxinst_r50_fpn_ms-90k_coco.py',
        'solo/solo_r50_fpn_1x_coco.py',
        'yolox/yolox_s_8xb8-300e_coco.py',
        'misc/d2_mask-rcnn_r50-caffe_fpn_ms-90k_coco.py',
        'soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py',
    ],
)
def test_mmdetections_own_configs_are_asked_for_nothing_but_their_data(name):
    config = Config.fromfile(Path(mmdet.__file__).parent / '.mim/configs' / name)
    with pytest.raises(InputError, match=r"^(data folder|annotation file) '.*' does not exist"):
        check_inputs(config, 'train')


def test_data_of_another_format_are_left_to_their_class(data):
    text = data.root / 'names.txt'
    text.write_text('1\n')
    data.config.train_dataloader.dataset = dict(
        type='VOCDataset', ann_file=str(text), data_prefix=dict(sub_data_root=''), metainfo=dict(classes=('cat', 'dog'))
    )
    check_inputs(data.config, 'train')


def test_data_on_remote_storage_are_left_to_their_backend(data):
    data.train_set.update(data_root='bucket/coco/', backend_args=dict(backend='petrel'))
    check_inputs(data.config, 'train')


def test_a_storage_backend_that_is_not_installed_is_named(data):
    data.train_set.update(data_root='s3://bucket/coco/')
    with pytest.raises(InputError, match='train_dataloader.dataset is not a valid config .*petrel_client'):
        check_inputs(data.config, 'train')


def test_an_image_folder_may_be_closed_to_listing_alone(data, monkeypatch):
    def closed(path):
        raise PermissionError(13, 'Permission denied', path)

    # The tests may run as root, to whom nothing is closed.
    monkeypatch.setattr(os, 'listdir', closed)
    check_inputs(data.config, 'train')
    monkeypatch.setattr(os, 'access', lambda path, mode: False)
    with pytest.raises(InputError, match='image folder .*images/. is closed to this user: ask'):
        check_inputs(data.config, 'train')


def test_an_evaluator_may_name_a_copy_of_the_same_file(data):
    path = data.root / 'copy.json'
    path.write_bytes(data.ann_file.read_bytes())
    data.config.val_evaluator.ann_file = str(path)
    check_inputs(data.config, 'train')


def test_a_file_without_annotations_is_refused_for_an_evaluator(data):
    path = data.root / 'images_alone.json'
    path.write_text(json.dumps({key: value for key, value in data.content.items() if key != 'annotations'}))
    data.config.val_evaluator.ann_file = str(path)
    with pytest.raises(InputError, match=r'images_alone\.json.* it has no annotations; export'):
        check_inputs(data.config, 'train')


def test_training_without_validation_is_checked(data):
    data.config.val_cfg = data.config.val_dataloader = data.config.val_evaluator = None
    check_inputs(data.config, 'train')
    data.ann_file.unlink()
    with pytest.raises(InputError, match='does not exist'):
        check_inputs(data.config, 'train')


def test_a_subset_of_the_files_classes_passes(data):
    data.content['categories'].append(dict(id=3, name='bird'))
    data.write()
    check_inputs(data.config, 'train')


def test_the_published_configs_ask_for_coco_first():
    path = Path(__file__).parents[2] / 'configs/centermask/centermask_v39_fpn_ms-3x_coco.py'
    config = Config.fromfile(path)
    config.merge_from_dict({f'{split}_dataloader.dataset.data_root': 'nowhere/' for split in ('train', 'val')})
    with pytest.raises(InputError, match="data folder 'nowhere/' does not exist"):
        check_inputs(config, 'train')


def test_the_hook_for_mmdetections_own_train_tool_knows_every_head(data):
    hook = HOOKS.build(data.config.default_hooks.class_count)
    dataset = DATASETS.build(data.train_set)
    runner = SimpleNamespace(model=MODELS.build(data.config.model), train_dataloader=SimpleNamespace(dataset=dataset))
    hook.before_train_epoch(runner)
    for head in (runner.model.bbox_head, runner.model.roi_head.mask_head, runner.model.roi_head.mask_iou_head):
        head.num_classes = 3
        with pytest.raises(AssertionError, match=rf'`num_classes` \(3\) in {type(head).__name__}'):
            hook.before_train_epoch(runner)
        head.num_classes = 2
