"""A device that is not there: tensors whose numbers are on the CPU, and that say that they are elsewhere.

Every operation is looked at as it reaches the dispatcher, forward and backward. What a real device refuses is
refused: tensors of two devices in one operation, a CPU generator, numpy, and float64 if it is as MPS.
What a GPU would wait for is counted: every number that is read back, every copy to the CPU, and every copy
from it that is not said to go on in the background.
"""

from collections import Counter

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "pretend"
CPU = torch.device("cpu")
aten = torch.ops.aten
CROSSING = {aten._to_copy.default, aten.copy_.default}  # may see two devices
INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}

_setup_privateuseone_for_python_backend(NAME)
backend = getattr(torch, NAME)  # what torch asks of a device's module
backend.get_amp_supported_dtype = lambda: [torch.bfloat16]
backend.get_rng_state = lambda device=0: torch.get_rng_state()
backend.set_rng_state = lambda state, device=0: None


class Elsewhere(torch.Tensor):
    """A tensor on the device; ``here`` has its numbers."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, here):
        layout = {"strides": here.stride(), "storage_offset": here.storage_offset(), "dtype": here.dtype}
        return torch.Tensor._make_wrapper_subclass(cls, here.shape, device=torch.device(NAME, 0), **layout)

    def __init__(self, here):
        self.here = here

    def __repr__(self):
        return f"Elsewhere({self.here!r})"

    def __reduce_ex__(self, protocol):  # torch.save writes numbers
        return self.here.__reduce_ex__(protocol)

    def tolist(self):
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})


class Device(TorchDispatchMode):
    """Within it the device is there; without ``double``, it has no float64."""

    def __init__(self, double=True):
        super().__init__()
        self.waits, self.double = Counter(), double

    def __enter__(self):
        global current
        current = super().__enter__()
        # torch.tensor hides its copy to the device from the dispatcher
        torch.tensor = lambda data, device=None, **options: tensor(data, **options).to(device or CPU)
        torch.__future__.set_swap_module_params_on_conversion(True)
        return self

    def __exit__(self, *error):
        torch.__future__.set_swap_module_params_on_conversion(False)
        torch.tensor = tensor
        super().__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if Elsewhere not in types and not (kwargs and kwargs.get("device")):
            return func(*args, **(kwargs or {}))  # the CPU alone
        return run(func, args, kwargs or {})


current, tensor = Device(), torch.tensor


def run(func, args, kwargs):
    """Run an operation on the CPU, if the device would."""
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    away = any(isinstance(tensor, Elsewhere) for tensor in tensors)
    if func is aten.copy_.default:
        target = args[0].device
    else:
        target = kwargs.get("device") or (torch.device(NAME) if away else CPU)
    if away and func not in CROSSING:
        judged = [*args[:1], *args[2:]] if func in INDEXING else tensors  # indices may be on the CPU
        strangers = [tuple(t.shape) for t in tree_leaves(judged) if type(t) is torch.Tensor and t.dim() > 0]
        assert not strangers, f"{func}: {strangers} on the CPU, and others on the device"
        assert func not in INDEXING or isinstance(args[0], Elsewhere), f"{func}: an index on the device"
    if func is aten._local_scalar_dense.default or (func in CROSSING and away and target.type == "cpu"):
        current.waits[str(func)] += 1
    if func in CROSSING and not away and target.type == NAME and not kwargs.get("non_blocking"):
        current.waits["a copy from the CPU"] += 1
    assert kwargs.get("generator") is None or target.type == "cpu", f"{func}: a generator of the CPU"
    plain = {name: CPU if name == "device" and value is not None else value for name, value in kwargs.items()}
    args_here, plain = tree_map_only(Elsewhere, lambda t: t.here, (args, plain))
    result = func(*args_here, **plain)
    written = [r.alias_info is not None and r.alias_info.is_write for r in func._schema.returns]
    if any(written):
        return kwargs.get("out", args[0]) if len(written) == 1 else result
    return result if target.type == "cpu" else tree_map_only(torch.Tensor, wrap, result)


def wrap(here):
    """Put a tensor of the CPU on the device."""
    assert current.double or here.dtype != torch.float64, "float64 on a device that has none"
    return Elsewhere(here)
