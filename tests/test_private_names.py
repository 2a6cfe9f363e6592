"""Private names of other packages that this package relies on: any of their releases may change them."""

import ast
import functools
import inspect
import pkgutil
import re
import textwrap
from importlib import import_module
from types import ModuleType

import pytest

import mmdet_sag

FRAMEWORKS = ('mmcv', 'mmdet', 'mmengine', 'torch')
# By class or module: its private functions with their parameters, its private classes and attributes with None.
DECLARED = {
    'mmcv.cnn.bricks.conv_ws.ConvAWS2d': {'_get_weight': 'self weight'},
    'mmcv.transforms.processing.Resize': {'_resize_img': 'self results'},
    'mmdet.datasets.samplers.multi_source_sampler.GroupMultiSourceSampler': {'_get_source_group_info': 'self'},
    'mmdet.datasets.transforms.loading.LoadAnnotations': {
        '_load_seg_map': 'self results',
        '_process_masks': 'self results',
    },
    'mmdet.datasets.transforms.transforms.RandomCenterCropPad': {
        '_crop_image_and_paste': 'self image center size',
        '_train_aug': 'self results',
    },
    'mmdet.evaluation.metrics.coco_metric.CocoMetric': {'_coco_api': None},
    'mmdet.models.dense_heads.base_dense_head.BaseDenseHead': {
        '_bbox_post_process': 'self results cfg rescale with_nms img_meta',
    },
    'mmdet.models.dense_heads.fcos_head.FCOSHead': {
        '_get_targets_single': 'self gt_instances points regress_ranges num_points_per_lvl',
    },
    'mmdet.models.dense_heads.fovea_head.FoveaHead': {'_bbox_decode': 'self priors bbox_pred base_len max_shape'},
    'mmdet.models.dense_heads.reppoints_head.RepPointsHead': {
        '_bbox_decode': 'self points bbox_pred stride max_shape',
    },
    'mmdet.models.dense_heads.yolox_head.YOLOXHead': {'_bbox_decode': 'self priors bbox_preds'},
    'mmdet.models.detectors.single_stage.SingleStageDetector': {
        '_forward': 'self batch_inputs batch_data_samples',
        '_load_from_state_dict': 'self state_dict prefix local_metadata strict missing_keys unexpected_keys error_msgs',
    },
    'mmdet.models.roi_heads.mask_heads.fcn_mask_head': {'_do_paste_mask': 'masks boxes img_h img_w skip_empty'},
    'mmdet.models.roi_heads.mask_heads.fcn_mask_head.FCNMaskHead': {
        '_predict_by_feat_single': 'self mask_preds bboxes labels img_meta rcnn_test_cfg rescale activate_map',
    },
    'mmdet.models.roi_heads.mask_heads.maskiou_head.MaskIoUHead': {
        '_get_area_ratio': 'self pos_proposals pos_assigned_gt_inds gt_masks',
    },
    'mmdet.models.roi_heads.scnet_roi_head.SCNetRoIHead': {'_fuse_glbctx': 'self roi_feats glbctx_feat rois'},
    'mmdet.models.roi_heads.standard_roi_head.StandardRoIHead': {
        '_bbox_forward': 'self x rois',
        '_mask_forward': 'self x rois pos_inds bbox_feats',
    },
    'mmdet.models.seg_heads.panoptic_fusion_heads.heuristic_fusion_head.HeuristicFusionHead': {
        '_predict_single': 'self mask_results seg_preds kwargs',
    },
    'mmengine.config.Config': {'_get_cfg_path': 'cfg_path filename'},
    'mmengine.config.DictAction': {'_parse_int_float_bool': 'val', '_parse_iterable': 'val'},
    'mmengine.dataset.base_dataset.BaseDataset': {'_join_prefix': 'self'},
    'mmengine.hooks.checkpoint_hook.CheckpointHook': {
        '_save_checkpoint': 'self runner',
        '_save_best_checkpoint': 'self runner metrics',
        '_save_checkpoint_with_step': 'self runner step meta',
    },
    'mmengine.infer.BaseInferencer': {
        '_get_models_from_metafile': 'dir',
        '_get_repo_or_mim_dir': 'scope',
        '_load_model_from_metafile': 'self model',
    },
    'mmengine.infer.infer.BaseInferencer': {'_init_collate': 'self cfg'},
    'mmengine.logging.history_buffer.HistoryBuffer': {
        '_count_history': None,
        '_log_history': None,
        '_set_default_statistics': 'self',
    },
    'mmengine.registry.Registry': {'_imported': None, '_locations': None},
    'mmengine.runner.Runner': {'_load_from': None, '_randomness_cfg': None, '_resume': None, '_train_loop': None},
    'mmengine.runner.loops.EpochBasedTrainLoop': {
        '_decide_current_val_interval': 'self',
        '_epoch': None,
        '_max_iters': None,
    },
    'mmengine.runner.loops.IterBasedTrainLoop': {'_decide_current_val_interval': 'self'},
    'mmengine.visualization.Visualizer': {'_vis_backends': None},
    'pycocotools.cocoeval.COCOeval': {'_dts': None, '_gts': None},
    'torch': {'_check': None, '_foreach_norm': None},
    'torch.distributed.distributed_c10d': {'_get_default_store': ''},
    'torch.nn.Module': {'_compiled_call_impl': None},
    'torch.nn.modules.batchnorm': {'_BatchNorm': None},
    'torch.nn.modules.module.Module': {
        '_load_from_state_dict': 'self state_dict prefix local_metadata strict missing_keys unexpected_keys error_msgs',
    },
    'torch.nn.modules.utils': {'_pair': 'x'},
}
# Python and PyTorch create these, or document them.
NOT_PRIVATE = ('_abc_impl', '_backward_cls', '_asdict', '_fields', '_replace', '_exit')


def is_private(name: str) -> bool:
    return name.startswith('_') and not name.startswith('__') and name not in NOT_PRIVATE


def is_foreign(name: str | None) -> bool:
    return bool(name) and name.split('.')[0] in FRAMEWORKS


@functools.cache
def tree(module: ModuleType) -> ast.AST:
    return ast.parse(inspect.getsource(module))


@functools.cache
def classes(name: str) -> dict[str, ast.ClassDef]:
    """The classes of a module, by their names. `inspect.getsource` would parse the module for each."""
    return {node.name: node for node in ast.walk(tree(import_module(name))) if isinstance(node, ast.ClassDef)}


@functools.cache
def source(cls: type) -> str:
    node = classes(cls.__module__)[cls.__name__]
    lines = inspect.getsource(import_module(cls.__module__)).splitlines()
    return textwrap.dedent('\n'.join(lines[node.lineno - 1 : node.end_lineno]))


@functools.cache
def own_modules() -> list[ModuleType]:
    names = [info.name for info in pkgutil.walk_packages(mmdet_sag.__path__, 'mmdet_sag.')]
    # It goes by the name mmcv._ext, and has the names of that module.
    return [import_module(name) for name in names if not name.endswith('torchvision_ext')]


def own_classes() -> list[type]:
    return [
        cls
        for module in own_modules()
        for _, cls in inspect.getmembers(module, inspect.isclass)
        if cls.__module__ == module.__name__
    ]


def members(cls: type) -> set[str]:
    """Private names that the source of a class defines, or takes from ``self``, ``cls`` or ``super()``."""
    names = set()
    for node in ast.walk(classes(cls.__module__)[cls.__name__]):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Attribute) and re.match(r'(self|cls)$|super\(', ast.unparse(node.value)):
            names.add(node.attr)
    return set(filter(is_private, names))


@functools.cache
def inherited() -> set[tuple[str, str]]:
    """Private members of foreign classes that classes of the package override or use, each with its first owner."""
    found = set()
    for cls in own_classes():
        foreign = [base for base in cls.__mro__ if is_foreign(base.__module__) and base.__module__ != 'torch._C']
        for name in set().union(*(members(base) for base in cls.__mro__ if base.__module__.startswith('mmdet_sag'))):
            pattern = re.compile(rf'def {name}\(|self\.{name}( =|:)|^    {name}\b', re.MULTILINE)
            owner = next((base for base in foreign if pattern.search(source(base))), None)
            if owner:
                found.add((f'{owner.__module__}.{owner.__qualname__}', name))
    return found


@functools.cache
def imported_or_read() -> set[str]:
    """Private names that are imported from a framework, or read from an object and defined nowhere in the package."""
    nodes = [node for module in own_modules() for node in ast.walk(tree(module))]
    own = {node.name for node in nodes if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    own |= {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    stored = [node for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)]
    own |= {node.attr for node in stored if isinstance(node.value, ast.Name) and node.value.id in ('self', 'cls')}
    names = {node.attr for node in nodes if isinstance(node, ast.Attribute)} - own
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.level == 0 and is_foreign(node.module):
            names |= {*node.module.split('.'), *(alias.name for alias in node.names)}
    return set(filter(is_private, names))


@functools.cache
def resolve(name: str) -> type | ModuleType:
    """The module of a dotted name, or its class."""
    try:
        return import_module(name)
    except ModuleNotFoundError:
        module, _, attribute = name.rpartition('.')
        return getattr(resolve(module), attribute)


def test_every_inherited_private_member_is_declared():
    assert inherited() <= {(owner, name) for owner, names in DECLARED.items() for name in names}


def test_every_private_name_that_is_imported_or_read_is_declared():
    assert imported_or_read() <= {name for names in DECLARED.values() for name in names}


def test_nothing_else_is_declared():
    used = imported_or_read()
    unused = {(owner, name) for owner, names in DECLARED.items() for name in names if name not in used} - inherited()
    assert not unused


@pytest.mark.parametrize(('owner', 'name'), [(owner, name) for owner, names in DECLARED.items() for name in names])
def test_declared_names_exist_and_take_the_parameters_that_are_relied_on(owner, name):
    parameters = DECLARED[owner][name]
    owner = resolve(owner)
    if parameters is not None:
        assert ' '.join(inspect.signature(getattr(owner, name)).parameters) == parameters
    else:
        assert hasattr(owner, name) or re.search(rf'self\.{name}( =|:)', inspect.getsource(owner))
