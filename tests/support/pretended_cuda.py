"""Tensors that say cuda:0 and hold CPU data: what a step would copy and wait for on a GPU, counted without one."""

import os
import traceback
from collections import Counter
from typing import Any

import mmcv
import mmdet
import mmengine
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

import mmdet_sag

# Operators whose result has a size, or is a number, that the host waits for.
_WAITS = {
    *(
        f'aten::{name}'
        for name in ('_local_scalar_dense', 'nonzero', 'is_nonzero', 'equal', 'masked_select', 'bincount')
    ),
    *(f'aten::{name}' for name in ('_unique2', 'unique_dim', 'unique_consecutive')),
    'torchvision::nms',
}
_PACKAGES = [os.path.dirname(package.__file__) for package in (mmdet_sag, mmdet, mmcv, mmengine)]


class PretendedCUDA(TorchDispatchMode):
    """While it is entered, what is moved to ``cuda`` stays on the CPU and says otherwise.

    The backward pass does not run: PyTorch's engine wants a CUDA context.

    Attributes:
        device: ``cuda:0``.
        events: Number of copies between host and device (``'to device'``, ``'to host'``) and of waits for the device,
            by kind and place in the source.
        mixed: Number of operators on tensors of both devices, by name and place: CUDA would refuse them.
        bytes: Bytes copied, by kind.
    """

    device = torch.device('cuda', 0)

    def __init__(self) -> None:
        super().__init__()
        if not hasattr(torch._C, '_set_only_lift_cpu_tensors'):
            pytest.skip('this PyTorch cannot pretend a device')
        self.events: Counter = Counter()
        self.mixed: Counter = Counter()
        self.bytes: Counter = Counter()
        self._patches = pytest.MonkeyPatch()

    def __enter__(self) -> 'PretendedCUDA':
        torch._C._ensureCUDADeviceGuardSet()
        torch._C._set_only_lift_cpu_tensors(True)
        self._patches.setattr(torch.cuda, '_lazy_init', lambda *args: None)
        self._patches.setattr(torch.backends.cudnn, 'enabled', False)
        self._patches.setattr(torch.Tensor, 'pin_memory', lambda tensor: tensor)
        return super().__enter__()

    def __exit__(self, *args) -> None:
        super().__exit__(*args)
        self._patches.undo()
        torch._C._set_only_lift_cpu_tensors(False)

    def move(self, model: torch.nn.Module) -> torch.nn.Module:
        """Move a model to the device, in place."""
        for module in model.modules():
            for name, value in module._parameters.items():
                if value is not None:
                    moved = _Pretended(value.detach())
                    module._parameters[name] = torch.nn.Parameter(moved, requires_grad=value.requires_grad)
            for name, value in module._buffers.items():
                module._buffers[name] = None if value is None else _Pretended(value)
        if hasattr(model, 'data_preprocessor'):
            model.data_preprocessor._device = self.device
        return model

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is torch.ops.prim.device.default:
            return self.device
        kwargs = dict(kwargs or {})
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        on_device = any(isinstance(tensor, _Pretended) for tensor in tensors)
        # In inference mode, ``to`` comes here as it is, with the device as an argument of the second place.
        target = kwargs.get('device', args[1] if func is torch.ops.aten.to.device else None)
        name = func._schema.name
        operator = name.partition('::')[2]
        if operator == 'copy_':
            self._count_copy(args[1], isinstance(args[0], _Pretended))
            on_device = isinstance(args[0], _Pretended)
        elif operator in ('_to_copy', 'to') and target is not None:
            on_device = torch.device(target).type == 'cuda'
            self._count_copy(tensors[0], on_device)
        elif operator == 'type_as':
            on_device = isinstance(args[1], _Pretended)
            self._count_copy(args[0], on_device)
        elif on_device:
            self._count_waits(name, operator, args, kwargs, tensors)
        if target is not None:
            on_device = torch.device(target).type == 'cuda'
        result = func(*tree_map(_inner, args), **tree_map(_inner, kwargs))
        if operator.endswith('_') and not operator.endswith('__') and isinstance(args[0], torch.Tensor):
            return args[0]
        if 'out' in kwargs:
            return kwargs['out']
        return tree_map(lambda x: _Pretended(x) if isinstance(x, torch.Tensor) else x, result) if on_device else result

    def _count_copy(self, source: torch.Tensor, to_device: bool) -> None:
        if isinstance(source, _Pretended) != to_device:
            kind = 'to device' if to_device else 'to host'
            self.events[kind, _place()] += 1
            self.bytes[kind] += source.numel() * source.element_size()

    def _count_waits(self, name: str, operator: str, args: tuple, kwargs: dict, tensors: list) -> None:
        plain = [tensor for tensor in tensors if not isinstance(tensor, _Pretended) and tensor.dim()]
        if operator in ('index', 'index_put', 'index_put_', '_index_put_impl_'):
            indices = [index for index in args[1] if index is not None]
            plain = [tensor for tensor in plain if not any(tensor is index for index in indices)]
            for index in indices:
                if not isinstance(index, _Pretended):
                    self._count_copy(index, True)
            # A number is filled in where the mask is true, without a list of these places.
            filled = operator != 'index' and not isinstance(args[2], _Pretended) and args[2].dim() == 0
            if not filled and any(index.dtype in (torch.bool, torch.uint8) for index in indices):
                self.events['index by a mask', _place()] += 1
        elif name in _WAITS or (operator == 'repeat_interleave' and kwargs.get('output_size') is None):
            self.events[name, _place()] += 1
        if plain:
            self.mixed[name, _place()] += 1


class _Pretended(torch.Tensor):
    """A tensor that says ``cuda:0``."""

    inner: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> '_Pretended':
        if isinstance(inner, _Pretended):
            return inner
        tensor = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device='cpu',
            dispatch_device=True,
        )
        tensor.inner = inner
        return tensor

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        raise RuntimeError('a tensor of PretendedCUDA is used outside of it')

    def tolist(self) -> Any:
        return self.cpu().tolist()

    # PyTorch's own of the next two would make tensors of the CPU.

    def new(self, *size: Any) -> torch.Tensor:
        return torch.empty(*size, dtype=self.dtype, device=self.device)

    def new_tensor(self, data: Any, dtype: torch.dtype | None = None) -> torch.Tensor:
        if isinstance(data, torch.Tensor):
            return data.detach().clone().to(self.device, dtype or self.dtype)
        numbers = tree_map(lambda x: x.item() if isinstance(x, torch.Tensor) else x, data)
        return torch.tensor(numbers, dtype=dtype or self.dtype, device=self.device)


def _inner(value: Any) -> Any:
    if isinstance(value, torch.device):
        return torch.device('cpu')
    return value.inner if isinstance(value, _Pretended) else value


def _place() -> str:
    """The innermost two places of the call in the packages."""
    places = []
    for frame in reversed(traceback.extract_stack()):
        package = next((folder for folder in _PACKAGES if frame.filename.startswith(folder + os.sep)), None)
        if package:
            places.append(f'{os.path.relpath(frame.filename, os.path.dirname(package))}:{frame.lineno}')
    return ' < '.join(places[:2])
