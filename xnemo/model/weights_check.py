"""Comparing a file's tensors with a network's, all before any is loaded."""

from collections.abc import Collection, Iterable, Mapping

import torch
from torch import Tensor, nn

from preprocessing.errors import UserError

# Names listed of each kind of fault; the rest are counted.
SHOWN = 6


def check_tensors(
    found: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    source: str,
    optional: Collection[str] = (),
    remedy: str = "use the weights and the configuration that belong together",
) -> None:
    """Refuse tensors that are not exactly those expected.

    Args:
        found: Tensors of the file.
        expected: Tensors of the network, by the same names; they may be on the meta device.
        source: What to call the file.
        optional: Names that may be missing.
        remedy: What to do, for the message.

    Raises:
        UserError: One line that names every missing, surplus and mis-shaped tensor.
    """
    missing = [name for name in expected if name not in found and name not in optional]
    surplus = [name for name in found if name not in expected]
    shapes, kinds = [], []
    for name, tensor in found.items():
        if name not in expected:
            continue
        want = expected[name]
        if tensor.shape != want.shape:
            shapes.append(f"{name} {_size(tensor)} where {_size(want)} is expected")
        elif tensor.is_floating_point() != want.is_floating_point():
            kinds.append(f"{name} {tensor.dtype} where {want.dtype} is expected")
    faults = [
        f"{len(names)} {kind}: {_shorten(names)}"
        for kind, names in (
            ("missing", missing),
            ("surplus", surplus),
            ("mis-shaped", shapes),
            ("of another type", kinds),
        )
        if names
    ]
    if faults:
        raise UserError(f"{source} does not fit: {'; '.join(faults)}", remedy)


def assign_tensors(module: nn.Module, tensors: Mapping[str, Tensor], keep_dtype: bool) -> None:
    """Give a module checked tensors, all of its own or some.

    Where the module is still on the meta device the tensors become its parameters, mapped file and
    all, so that there is never a second copy; otherwise they are copied into the parameters, which
    optimisers and engines may hold already.

    Args:
        module: The network.
        tensors: By name; every name is known to be the module's.
        keep_dtype: Keep the file's types instead of the module's (meta device only).
    """
    own = module.state_dict(keep_vars=True)
    if not any(own[name].is_meta for name in tensors):
        with torch.no_grad():
            for name, tensor in tensors.items():
                own[name].copy_(tensor)
        return
    ready = {
        name: tensor if keep_dtype else tensor.to(own[name].dtype)
        for name, tensor in tensors.items()
    }
    module.load_state_dict(ready, strict=False, assign=True)


def _size(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "scalar"


def _shorten(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
