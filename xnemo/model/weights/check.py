"""Checking all tensors of a file against a network before any is loaded."""

from collections.abc import Collection, Iterable, Mapping

import torch
from torch import Tensor, nn

from preprocessing.errors import UserError

# Names listed per kind of fault; the rest are counted.
SHOWN = 6
# Accepted types of stored weights; 8-bit and packed formats need separate scales.
FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def check_tensors(
    found: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    source: str,
    optional: Collection[str] = (),
    remedy: str = "use the weights and the configuration that belong together",
) -> None:
    """Require exactly the expected tensors, all finite.

    Args:
        found: Tensors of the file.
        expected: Tensors of the network, by the same names; they may be on the meta device.
        source: Name of the file in the message.
        optional: Names that may be missing.
        remedy: How to fix it, for the message.

    Raises:
        UserError: Tensors are missing, surplus, mis-shaped, of another type, or not finite.
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
        elif not _readable_as(tensor, want):
            expected_kind = str(want.dtype).removeprefix("torch.")
            kinds.append(f"{name} {_kind(tensor)} where {expected_kind} is expected")
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
    prefix = _common_prefix(missing, surplus)
    if prefix:
        raise UserError(
            f'{source} does not fit: every name has the prefix "{prefix}" of a wrapper module',
            "save the state dict of the wrapped module",
        )
    if faults:
        raise UserError(f"{source} does not fit: {'; '.join(faults)}", remedy)
    broken = [name for name, tensor in found.items() if not _is_finite(tensor)]
    if broken:
        raise UserError(
            f"{source} contains NaN or infinity in {len(broken)} of {len(found)} tensors:"
            f" {_shorten(broken)}",
            "use a checkpoint from before the training diverged, or fetch it again",
        )


def assign_tensors(module: nn.Module, tensors: Mapping[str, Tensor], keep_dtype: bool) -> None:
    """Load checked tensors into a module, completely or in part.

    On the meta device the (mapped) tensors become the parameters, without a second copy; otherwise
    they are copied into the parameters, which optimisers and engines may already reference.

    Args:
        module: The network.
        tensors: By name; all names are the module's.
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


def _readable_as(tensor: Tensor, want: Tensor) -> bool:
    if tensor.layout is not torch.strided or tensor.is_meta:
        return False
    if want.is_floating_point():
        return tensor.dtype in FLOATS
    return not tensor.is_floating_point() and not tensor.is_complex()


def _kind(tensor: Tensor) -> str:
    kind = str(tensor.dtype).removeprefix("torch.")
    if tensor.layout is not torch.strided:
        return f"sparse {kind}"
    return f"{kind} without data" if tensor.is_meta else kind


def _common_prefix(missing: list[str], surplus: list[str]) -> str | None:
    """Return the prefix by which all surplus names differ from the missing ones, or None."""
    if not missing or not surplus:
        return None
    first = next((name for name in surplus if name.endswith(missing[0])), "")
    prefix = first.removesuffix(missing[0])
    if not prefix or {name.removeprefix(prefix) for name in surplus} != set(missing):
        return None
    return prefix if all(name.startswith(prefix) for name in surplus) else None


def _is_finite(tensor: Tensor) -> bool:
    if not tensor.is_floating_point():
        return True
    # A sum makes no copy. It may overflow on large numbers; only then each is checked.
    total = tensor.sum(dtype=torch.float32 if tensor.dtype != torch.float64 else None)
    return bool(torch.isfinite(total)) or bool(torch.isfinite(tensor).all())


def _size(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "scalar"


def _shorten(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
