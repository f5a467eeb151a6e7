"""Damaged or wrong weights files are reported in one line and nothing is loaded."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from preprocessing.errors import UserError
from xnemo.model.motion.encoder import MotionEncoder
from xnemo.model.weights.check import assign_tensors, check_tensors
from xnemo.model.weights.files import read_tensors

SHAPE: dict[str, Any] = {
    "image_size": 16, "stem_width": 4, "heatmaps": 4, "hourglass_depth": 1, "attention_width": 16,
    "attention_heads": 2, "norm_groups": 4, "latent_width": 8, "box_width": 4, "tokens": 2,
    "token_width": 4,
}  # fmt: skip
INDEX = "diffusion_pytorch_model.safetensors.index.json"


def load(path: Path) -> MotionEncoder:
    """As every loader does: read, check, assign."""
    with torch.device("meta"):
        encoder = MotionEncoder(**SHAPE)
    try:
        found = read_tensors(path)
        check_tensors(found, encoder.state_dict(), str(path))
    except UserError:
        assert all(parameter.is_meta for parameter in encoder.parameters())
        raise
    assign_tensors(encoder, found, keep_dtype=False)
    return encoder


def refuse(path: Path, *words: str) -> None:
    with pytest.raises(UserError) as error:
        load(path)
    text = str(error.value)
    assert "\n" not in text
    assert "\x1b" not in text
    assert str(path.parent) in text
    for word in words:
        assert word in text, text


@pytest.fixture(scope="module")
def sound() -> dict[str, Tensor]:
    return MotionEncoder(**SHAPE).state_dict()


def floats(tensors: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    return {n: t.to(dtype) if t.is_floating_point() else t for n, t in tensors.items()}


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_load_into_the_networks_own(sound, tmp_path, dtype, ending):
    path = tmp_path / f"weights.{ending}"
    (torch.save if ending == "pth" else save_file)(floats(sound, dtype), path)
    loaded = load(path).state_dict()
    for name, tensor in sound.items():
        assert loaded[name].dtype == tensor.dtype
        stored = tensor.to(dtype) if tensor.is_floating_point() else tensor
        assert torch.equal(loaded[name], stored.to(tensor.dtype)), name


def one(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[dict[str, Tensor]], Any]:
    return lambda tensors: tensors | {name: change(tensors[name])}


CONTENTS: dict[str, tuple[Callable[[dict[str, Tensor]], Any], tuple[str, ...]]] = {
    "integers": (
        lambda t: {n: x.to(torch.int8) for n, x in t.items()},
        ("of another type", "pe int8 where float32"),
    ),
    "8-bit floats": (
        lambda t: floats(t, torch.float8_e4m3fn),
        ("of another type", "pe float8_e4m3fn where float32"),
    ),
    "complex": (
        one("final_proj.weight", lambda x: x + 0j),
        ("1 of another type: final_proj.weight complex64",),
    ),
    "sparse": (
        one("final_proj.weight", lambda x: x.to_sparse()),
        ("1 of another type: final_proj.weight sparse float32",),
    ),
    "no data": (
        one("final_proj.weight", lambda x: x.to("meta")),
        ("1 of another type: final_proj.weight float32 without data",),
    ),
    "nan": (
        one("final_proj.weight", lambda x: x * torch.nan),
        ("NaN or infinity in 1 of", "final_proj.weight"),
    ),
    "infinity": (
        one("model.bn1.running_var", lambda x: x.index_fill(0, torch.tensor([2]), torch.inf)),
        ("NaN or infinity in 1 of", "model.bn1.running_var"),
    ),
    "opposite infinities": (
        one("model.bn1.bias", lambda x: torch.tensor([torch.inf, -torch.inf, 0, 0])),
        ("NaN or infinity in 1 of", "model.bn1.bias"),
    ),
    "parallel wrapper": (
        lambda t: {f"module.{n}": x for n, x in t.items()},
        ('every name has the prefix "module."', "of the wrapped module"),
    ),
    "compiled wrapper inside a checkpoint": (
        lambda t: {"state_dict": {f"net._orig_mod.{n}": x for n, x in t.items()}, "step": 3},
        ('every name has the prefix "net._orig_mod."',),
    ),
    "wrapped and one too few": (
        lambda t: {f"module.{n}": x for n, x in t.items() if n != "pe"},
        ("missing: pe", "surplus: module."),
    ),
    "another key": (
        lambda t: {"model": t, "epoch": 7},
        ("not a state dict", 'its entry "model"'),
    ),
    "numbers for names": (lambda t: dict(enumerate(t.values())), ("not a state dict",)),
    "arrays": (lambda t: {n: x.numpy() for n, x in t.items()}, ("not opened",)),
    "a whole module": (lambda t: nn.Linear(2, 2), ("not opened",)),
    "nothing": (lambda t: {}, ("not a state dict",)),
}


@pytest.mark.parametrize("content", CONTENTS)
def test_a_pytorch_file_of_other_content_is_named(sound, tmp_path, content):
    make, words = CONTENTS[content]
    torch.save(make(dict(sound)), tmp_path / "weights.pth")
    refuse(tmp_path / "weights.pth", "weights.pth", *words)


def test_large_weights_are_not_taken_for_infinite_ones(sound, tmp_path):
    huge = one("final_proj.weight", lambda x: torch.full_like(x, 3e38))(dict(sound))
    save_file(huge, tmp_path / "weights.safetensors")
    assert load(tmp_path / "weights.safetensors").final_proj.weight.min() > 2e38


@pytest.mark.parametrize("ending", ["pth", "ckpt", "safetensors"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ("is empty",)),
        (b"<!DOCTYPE html><html><body>Not found</body></html>", ("web server",)),
        (b"\n<html><head>", ("web server",)),
        (b'{"error":"Invalid username or password."}', ("web server",)),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 3438167534\n",
            ("git lfs pull",),
        ),
        (b"\x00" * 600, ()),
        (b"hello", ()),
    ],
)
def test_what_a_failed_download_leaves_is_named(tmp_path, content, words, ending):
    path = tmp_path / f"weights.{ending}"
    path.write_bytes(content)
    refuse(path, path.name, *words)


def header(entries: Any, body: int = 32) -> bytes:
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + bytes(body)


def entry(first: int, last: int, dtype: str = "F32", shape: tuple[int, ...] = (4,)) -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [first, last]}


@pytest.mark.parametrize(
    "content",
    [
        header({"a": entry(0, 16), "b": entry(8, 24)}, 24),
        header({"a": entry(0, 16), "b": entry(20, 36)}, 36),
        header({"a": entry(0, 16)}, 17),
        header({"a": entry(0, 16)}, 15),
        header({"a": entry(0, 16, shape=(5,))}, 16),
        header({"a": entry(0, 16, dtype="F99")}, 16),
        header({"a": entry(0, 16, shape=(-4,))}, 16),
        header(b"\xff\xfe{{{{"),
        header([1, 2]),
        struct.pack("<Q", 2**62) + b"{}",
        b"abc",
    ],
    ids=["overlap", "gap", "surplus byte", "missing byte", "shape", "type", "negative", "garbage",
         "list", "huge header", "three bytes"],
)  # fmt: skip
def test_a_safetensors_header_that_lies_is_refused(tmp_path, content):
    (tmp_path / "weights.safetensors").write_bytes(content)
    refuse(tmp_path / "weights.safetensors", "damaged or not a safetensors file")


@pytest.fixture
def sharded(sound, tmp_path) -> Path:
    """A folder of two files and their index."""
    names = sorted(sound)
    halves = {"one.safetensors": names[::2], "two.safetensors": names[1::2]}
    for file, own in halves.items():
        save_file({name: sound[name] for name in own}, tmp_path / file)
    write_map(tmp_path, {name: file for file, own in halves.items() for name in own})
    return tmp_path


def write_map(folder: Path, files: Any) -> None:
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": files}))


def read_map(folder: Path) -> dict[str, str]:
    return json.loads((folder / INDEX).read_text())["weight_map"]


def test_an_index_and_its_files_load(sound, sharded):
    assert all(torch.equal(sound[n], t) for n, t in load(sharded).state_dict().items())


def _overwrite(folder: Path, **changes: Tensor) -> None:
    save_file(changes, folder / "two.safetensors")


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda f: (f / "two.safetensors").unlink(), ("two.safetensors, which is missing",)),
        (lambda f: (f / "two.safetensors").write_bytes(b"<html>"), ("web server",)),
        (lambda f: _overwrite(f, stranger=torch.zeros(1)), ("stranger", "no file")),
        (lambda f: shutil.copy(f / "one.safetensors", f / "two.safetensors"),
         ("which the index assigns to one.safetensors",)),
        (lambda f: write_map(f, read_map(f) | {"more": "one.safetensors"}),
         ("assigns more to one.safetensors, which lacks it",)),
        (lambda f: write_map(f, read_map(f) | {"pe": 5}), ("not an index",)),
        (lambda f: write_map(f, read_map(f) | {"pe": ".."}), ("points outside",)),
        (lambda f: write_map(f, read_map(f) | {"pe": "/etc/passwd"}), ("points outside",)),
        (lambda f: write_map(f, {}), ("missing: pe",)),
        (lambda f: write_map(f, None), ("not an index",)),
        (lambda f: (f / INDEX).write_text("[1]"), ("not an index",)),
        (lambda f: (f / INDEX).write_bytes(b"\xff\xfe\x00"), ("not an index",)),
        (lambda f: [p.unlink() for p in f.iterdir()] and (f / "config.json").write_text("{}"),
         ("holds none of",)),
    ],
    ids=["file missing", "web page", "stranger", "same file twice", "name too many", "number",
         "parent", "elsewhere", "empty", "null", "list", "bytes", "config alone"],
)  # fmt: skip
def test_an_index_that_does_not_fit_its_files_is_refused(sharded, harm, words):
    harm(sharded)
    with pytest.raises(UserError) as error:
        load(sharded)
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value), error.value
