"""Published checkpoints load completely and exactly, or fail in one line with nothing loaded."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from diffusers import MotionAdapter, UNet2DConditionModel
from safetensors.torch import load_file, save_file

from preprocessing.errors import UserError
from xnemo.model.config import tiny
from xnemo.model.frozen.autoencoder import AutoencoderConfig
from xnemo.model.loading.animatediff import load_animatediff
from xnemo.model.loading.official import export_official, find_official_files, load_official
from xnemo.model.loading.stable_diffusion import load_stable_diffusion
from xnemo.model.loading.starting_weights import (
    ANIMATEDIFF,
    OFFICIAL,
    STABLE_DIFFUSION,
    load_starting_weights,
    recognise,
)
from xnemo.model.networks import Networks, empty_networks, initialise_missing
from xnemo.model.weights.files import read_tensors

WEIGHTS = "diffusion_pytorch_model.safetensors"
# AnimateDiff's module has no middle width of its own and at least two layers a level.
WIDTHS = (48, 64)


def configuration():
    unet = replace(
        tiny().unet, widths=WIDTHS, attention=(True, False), layers=2, temporal=True,
        latent_channels=48, norm_groups=16, heads=2, use_2d_rope=False,
    )  # fmt: skip
    autoencoder = AutoencoderConfig("space_to_depth", path=None, factor=4)
    return replace(tiny(), unet=unet, autoencoder=autoencoder)


def empty() -> Networks:
    return empty_networks(configuration(), training=False)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> tuple[Networks, Path]:
    """Networks with random weights everywhere, and their export as official files."""
    networks = empty()
    initialise_missing(networks, seed=5)
    with torch.no_grad():
        for part in networks.trained_parts().values():
            for parameter in part.parameters():
                parameter.add_(0.01)
    folder = tmp_path_factory.mktemp("official") / "files"
    export_official(networks, folder)
    return networks, folder


@pytest.fixture
def files(source, tmp_path):
    """A folder of the four files that a test may damage."""
    for path in source[1].iterdir():
        os.link(path, tmp_path / path.name)
    return find_official_files(tmp_path)


def rewrite(path: Path, change) -> None:
    tensors = torch.load(path, weights_only=True)
    change(tensors)
    path.unlink()
    torch.save(tensors, path)


@cache
def untouched() -> Networks:
    """Networks that every refused load leaves on the meta device."""
    return empty()


def refuse(load, *words: str) -> None:
    """The load fails in one line with these words, and no tensor of the networks has a value."""
    networks = untouched()
    with pytest.raises(UserError) as error:
        load(networks)
    text = str(error.value)
    assert "\n" not in text
    for word in words:
        assert word in text, text
    for part in networks.trained_parts().values():
        assert all(parameter.is_meta for parameter in part.parameters())


def test_official_files_come_back_bit_for_bit(source, files):
    networks = empty()
    load_official(networks, files)
    for name, part in source[0].trained_parts().items():
        loaded = getattr(networks, name).state_dict()
        for key, value in part.state_dict().items():
            assert torch.equal(loaded[key], value), key


def test_official_names_are_those_of_the_release(source):
    halves = {
        name: torch.load(source[1] / f"xnemo_{name}.pth", weights_only=True)
        for name in ("denoising_unet", "temporal_module", "reference_unet", "motion_encoder")
    }
    assert all(".temporal_modules." in key for key in halves["temporal_module"])
    assert not any(".temporal_modules." in key for key in halves["denoising_unet"])
    assert not any(key.startswith("conv_out") for key in halves["reference_unet"])
    assert "model.att_1.pos_embed.proj.weight" in halves["motion_encoder"]


def test_position_tables_may_be_missing(source, files):
    rewrite(
        files.temporal_module,
        lambda t: [t.pop(key) for key in list(t) if key.endswith(".pe")],
    )
    networks = empty()
    load_official(networks, files)
    own = networks.denoiser.state_dict()
    assert all(torch.equal(own[k], v) for k, v in source[0].denoiser.state_dict().items())


def test_loading_into_networks_in_use_keeps_their_parameters(source, files):
    networks = empty()
    initialise_missing(networks)
    held = networks.denoiser.conv_in.weight
    load_official(networks, files)
    assert networks.denoiser.conv_in.weight is held
    assert torch.equal(held, source[0].denoiser.conv_in.weight)


FAULTS = {
    "missing": (lambda t: t.pop(next(iter(t))), "1 missing: "),
    "surplus": (lambda t: t.__setitem__("stranger.temporal_modules.x", torch.zeros(2)), "surplus"),
    "shape": (lambda t: t.__setitem__(next(iter(t)), torch.zeros(2, 3)), "2×3 where"),
    "type": (lambda t: t.__setitem__(next(iter(t)), next(iter(t.values())).int()), "int32 where"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(
    "name", ["motion_encoder", "reference_unet", "denoising_unet", "temporal_module"]
)
def test_each_fault_in_each_official_file_is_named(files, name, fault):
    path = getattr(files, name)
    change, word = FAULTS[fault]
    key = next(iter(torch.load(path, weights_only=True)))
    if fault == "missing" and key.endswith(".pe"):
        pytest.skip("position tables may be missing")
    rewrite(path, change)
    named = "stranger" if fault == "surplus" else key
    refuse(lambda networks: load_official(networks, files), path.name, word, named)


def test_many_faults_are_counted_and_some_named(files):
    rewrite(files.reference_unet, lambda t: [t.pop(key) for key in list(t)[:40]])
    refuse(lambda networks: load_official(networks, files), "40 missing: conv_in.weight", "34 more")


def test_absent_files_are_all_named(files):
    files.motion_encoder.unlink()
    files.temporal_module.unlink()
    with pytest.raises(UserError, match=r"motion_encoder\.pth, xnemo_temporal_module\.pth"):
        find_official_files(files.reference_unet.parent)


class Malicious:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return (Path.touch, (self.trace,))


@pytest.mark.parametrize("old_format", [False, True])
def test_a_pickle_that_would_run_code_is_not_opened(files, tmp_path, old_format):
    trace = tmp_path / "executed"
    files.motion_encoder.unlink()
    torch.save(
        {"pe": Malicious(trace)},
        files.motion_encoder,
        _use_new_zipfile_serialization=not old_format,
    )
    refuse(lambda networks: load_official(networks, files), "motion_encoder", "was not opened")
    assert not trace.exists()


@pytest.mark.parametrize("kept", [0, 10, 5000])
def test_a_truncated_official_file_is_refused(files, kept):
    data = files.denoising_unet.read_bytes()[:kept]
    files.denoising_unet.unlink()
    files.denoising_unet.write_bytes(data)
    refuse(lambda networks: load_official(networks, files), "denoising_unet")


def test_files_of_the_older_format_load(files):
    tensors = torch.load(files.motion_encoder, weights_only=True)
    files.motion_encoder.unlink()
    torch.save(tensors, files.motion_encoder, _use_new_zipfile_serialization=False)
    load_official(empty(), files)


def test_a_file_of_something_else_is_refused(tmp_path):
    torch.save([1, 2], tmp_path / "list.pth")
    (tmp_path / "text.pth").write_text("hello")
    for name in ("list.pth", "text.pth", "none.pth"):
        with pytest.raises(UserError, match=re.escape(name)):
            read_tensors(tmp_path / name)


def test_an_index_may_not_point_outside_its_folder(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "outside.safetensors")
    inner = tmp_path / "inner"
    inner.mkdir()
    index = {"weight_map": {"a": "../outside.safetensors"}}
    (inner / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="outside its folder"):
        read_tensors(inner)


@pytest.fixture(scope="module")
def stable_diffusion(tmp_path_factory) -> tuple[UNet2DConditionModel, Path]:
    """A UNet made and saved by diffusers' own class."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        in_channels=48,
        out_channels=48,
        block_out_channels=WIDTHS,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=2,
        attention_head_dim=2,
        cross_attention_dim=48,
        norm_num_groups=16,
    ).eval()
    folder = tmp_path_factory.mktemp("sd")
    unet.save_pretrained(folder / "unet")
    return unet, folder


@torch.no_grad()
def test_a_new_denoiser_predicts_what_stable_diffusion_predicts(stable_diffusion):
    unet, folder = stable_diffusion
    networks = empty()
    load_stable_diffusion(networks, folder)
    initialise_missing(networks)
    z, tokens = torch.randn(2, 48, 3, 8, 8), torch.randn(2, 5, 48)
    expected = torch.stack([unet(z[:, :, f], 77, tokens).sample for f in range(3)], dim=2)
    networks.denoiser.eval()
    found = networks.denoiser(z, 77, tokens, torch.randn(2, 3, 8, 16))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_reference_features_are_stable_diffusions_self_attention_inputs(stable_diffusion):
    unet, folder = stable_diffusion
    networks = empty()
    load_stable_diffusion(networks, folder / "unet" / WEIGHTS)
    z, tokens = torch.randn(2, 48, 8, 8), torch.randn(2, 1, 48)
    inputs: dict[str, torch.Tensor] = {}
    for name in networks.reference_net.transformer_names():
        unet.get_submodule(f"{name}.attn1").register_forward_pre_hook(
            lambda _module, arguments, name=name: inputs.__setitem__(name, arguments[0])
        )
    unet(z, 0, tokens)
    found = networks.reference_net(z, tokens).by_block
    assert found.keys() == inputs.keys()
    for name, expected in inputs.items():
        torch.testing.assert_close(found[name], expected, rtol=1e-4, atol=1e-5)


def test_the_two_networks_do_not_share_memory(stable_diffusion):
    networks = empty()
    load_stable_diffusion(networks, stable_diffusion[1])
    before = networks.reference_net.conv_in.weight.clone()
    with torch.no_grad():
        networks.denoiser.conv_in.weight.add_(1)
    assert torch.equal(networks.reference_net.conv_in.weight, before)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda t: t.pop("mid_block.resnets.0.norm1.weight"), "1 missing: mid_block.resnets.0"),
        (lambda t: t.__setitem__("stranger", torch.zeros(1)), "1 surplus: stranger"),
        (lambda t: t.__setitem__("conv_in.weight", torch.zeros(3, 9, 3, 3)), "3×9×3×3 where"),
    ],
)
def test_stable_diffusion_weights_are_strict(stable_diffusion, tmp_path, change, word):
    tensors = load_file(stable_diffusion[1] / "unet" / WEIGHTS)
    change(tensors)
    save_file(tensors, tmp_path / "unet.safetensors")
    refuse(lambda networks: load_stable_diffusion(networks, tmp_path / "unet.safetensors"), word)


def test_a_truncated_safetensors_is_refused(stable_diffusion, tmp_path):
    data = (stable_diffusion[1] / "unet" / WEIGHTS).read_bytes()
    (tmp_path / "unet.safetensors").write_bytes(data[: len(data) // 2])
    refuse(
        lambda networks: load_stable_diffusion(networks, tmp_path / "unet.safetensors"), "damaged"
    )


def test_another_shape_in_the_config_is_named(stable_diffusion, tmp_path):
    config = json.loads((stable_diffusion[1] / "unet" / "config.json").read_text())
    config["block_out_channels"] = [48, 128]
    (tmp_path / "config.json").write_text(json.dumps(config))
    os.link(stable_diffusion[1] / "unet" / WEIGHTS, tmp_path / WEIGHTS)
    refuse(lambda networks: load_stable_diffusion(networks, tmp_path), "widths (48, 128)")


RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0", "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
ENDS = {
    "conv_in": "input_blocks.0.0", "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2", "conv_norm_out": "out.0", "conv_out": "out.2",
}  # fmt: skip


def original_name(name: str, layers: int) -> str:
    """The name that the original code of Stable Diffusion gives a tensor of `stable_diffusion`."""
    for ours, theirs in ENDS.items():
        if name.startswith(f"{ours}."):
            return name.replace(ours, theirs, 1)
    if found := re.match(r"mid_block\.(resnets|attentions)\.(\d)\.(.*)", name):
        kind, number, rest = found[1], int(found[2]), found[3]
        place = f"middle_block.{2 * number if kind == 'resnets' else 1}"
    else:
        found = re.match(r"(down|up)_blocks\.(\d)\.(\w+)\.(\d)\.(.*)", name)
        assert found, name
        way, level, kind, number, rest = (
            found[1], int(found[2]), found[3], int(found[4]), found[5],
        )  # fmt: skip
        first = level * (layers + 1)
        if kind == "downsamplers":
            return f"input_blocks.{first + layers + 1}.0.op.{rest.removeprefix('conv.')}"
        if kind == "upsamplers":
            # After a level without attention it takes the attention's place.
            return f"output_blocks.{first + layers}.{2 if level else 1}.{rest}"
        block = f"input_blocks.{first + number + 1}"
        place = f"{block if way == 'down' else f'output_blocks.{first + number}'}"
        place += ".0" if kind == "resnets" else ".1"
    if kind == "resnets":
        layer, _, end = rest.partition(".")
        rest = f"{RESNET[layer]}.{end}"
    return f"{place}.{rest}"


def original_file(stable_diffusion, path: Path) -> Path:
    tensors = load_file(stable_diffusion[1] / "unet" / WEIGHTS)
    renamed = {f"model.diffusion_model.{original_name(n, 2)}": t for n, t in tensors.items()}
    assert len(renamed) == len(tensors)
    save_file(renamed | {"first_stage_model.encoder.conv_in.bias": torch.zeros(3)}, path)
    return path


def test_a_single_file_with_the_original_names_is_the_same_network(stable_diffusion, tmp_path):
    path = original_file(stable_diffusion, tmp_path / "sd.safetensors")
    assert recognise(path) == STABLE_DIFFUSION
    one, other = empty(), empty()
    load_stable_diffusion(one, path)
    load_stable_diffusion(other, stable_diffusion[1])
    for part in ("denoiser", "reference_net"):
        ours, theirs = getattr(one, part).state_dict(), getattr(other, part).state_dict()
        for key, value in theirs.items():
            assert value.is_meta == ours[key].is_meta, key
            assert value.is_meta or torch.equal(value, ours[key]), key


def test_a_single_file_that_lacks_a_layer_is_refused(stable_diffusion, tmp_path):
    path = original_file(stable_diffusion, tmp_path / "sd.safetensors")
    tensors = load_file(path)
    del tensors["model.diffusion_model.middle_block.1.norm.weight"]
    save_file(tensors, tmp_path / "cut.safetensors")
    refuse(
        lambda networks: load_stable_diffusion(networks, tmp_path / "cut.safetensors"),
        "1 missing: mid_block.attentions.0.norm.weight",
    )
    save_file({"model.diffusion_model.x": torch.zeros(1)}, tmp_path / "none.safetensors")
    refuse(
        lambda networks: load_stable_diffusion(networks, tmp_path / "none.safetensors"), "missing"
    )


def animatediff(source: Networks) -> dict[str, torch.Tensor]:
    """Our temporal modules under the names of an AnimateDiff v2 checkpoint."""
    return {
        name.replace(".temporal_modules.", ".motion_modules."): tensor.clone()
        for name, tensor in source.denoiser.state_dict().items()
        if ".temporal_modules." in name
    }


@pytest.mark.parametrize("wrapped", [False, True])
def test_animatediff_fills_all_temporal_modules_and_nothing_else(source, tmp_path, wrapped):
    tensors = animatediff(source[0])
    if wrapped:
        prefixed = {f"module.{name}": tensor for name, tensor in tensors.items()}
        torch.save({"epoch": 3, "state_dict": prefixed}, tmp_path / "mm.ckpt")
    else:
        torch.save(tensors, tmp_path / "mm.ckpt")
    networks = empty()
    load_animatediff(networks, tmp_path / "mm.ckpt")
    expected = source[0].denoiser.state_dict()
    for name, parameter in networks.denoiser.named_parameters():
        assert parameter.is_meta == (".temporal_modules." not in name), name
        if not parameter.is_meta:
            assert torch.equal(parameter, expected[name]), name


def test_a_diffusers_motion_adapter_fills_them_too(tmp_path):
    torch.manual_seed(0)
    adapter = MotionAdapter(
        block_out_channels=WIDTHS, motion_num_attention_heads=2, motion_norm_num_groups=16,
        motion_layers_per_block=2, motion_max_seq_length=16,
    )  # fmt: skip
    adapter.save_pretrained(tmp_path)
    networks = empty()
    load_animatediff(networks, tmp_path)
    theirs = adapter.down_blocks[1].motion_modules[0].transformer_blocks[0]
    block = networks.denoiser.down_blocks[1].temporal_modules[0].temporal_transformer
    ours = block.transformer_blocks[0]
    assert torch.equal(ours.attention_blocks[1].to_k.weight, theirs.attn2.to_k.weight)
    assert torch.equal(ours.norms[0].weight, theirs.norm1.weight)
    assert torch.equal(ours.ff.net[2].weight, theirs.ff.net[2].weight)
    # Not by names alone: the block also computes what theirs does.
    tokens = torch.randn(3, 5, WIDTHS[1])
    with torch.no_grad():
        torch.testing.assert_close(ours(tokens), theirs(tokens), rtol=1e-4, atol=1e-5)


def test_animatediff_without_a_middle_is_refused(source, tmp_path):
    tensors = {k: v for k, v in animatediff(source[0]).items() if not k.startswith("mid_block")}
    torch.save(tensors, tmp_path / "mm_v1.ckpt")
    refuse(
        lambda networks: load_animatediff(networks, tmp_path / "mm_v1.ckpt"),
        "missing: mid_block",
        "version 2",
    )


def test_animatediff_needs_temporal_modules(source, tmp_path):
    torch.save(animatediff(source[0]), tmp_path / "mm.ckpt")
    networks = empty_networks(tiny(), training=False)
    with pytest.raises(UserError, match=r"unet\.temporal"):
        load_animatediff(networks, tmp_path / "mm.ckpt")


def test_each_kind_is_recognised_by_what_the_path_holds(source, stable_diffusion, tmp_path):
    torch.save(animatediff(source[0]), tmp_path / "mm.ckpt")
    unet = stable_diffusion[1]
    kinds = {
        source[1]: OFFICIAL,
        unet: STABLE_DIFFUSION,
        unet / "unet": STABLE_DIFFUSION,
        unet / "unet" / WEIGHTS: STABLE_DIFFUSION,
        tmp_path / "mm.ckpt": ANIMATEDIFF,
    }
    for path, kind in kinds.items():
        assert recognise(path) == kind
    networks = empty()
    assert load_starting_weights(networks, tmp_path / "mm.ckpt") == ANIMATEDIFF
    assert load_starting_weights(networks, unet) == STABLE_DIFFUSION
    left = [name for name, p in networks.denoiser.named_parameters() if p.is_meta]
    assert left
    assert all(".motion_modules." in name for name in left)
    save_file({"other": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="no weights that can start"):
        load_starting_weights(empty(), tmp_path / "other.safetensors")


LOAD_AND_MEASURE = """
import re, sys
from dataclasses import replace
from pathlib import Path
from xnemo.model.config import tiny
from xnemo.model.networks import empty_networks
from xnemo.model.official_weights import find_official_files, load_official
unet = replace(tiny().unet, widths=(256, 512), heads=8, layers=2, temporal=True)
networks = empty_networks(replace(tiny(), unet=unet), training=False)
def peak():
    # Not getrusage(): its maximum is inherited from the parent process.
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
before = peak()
load_official(networks, find_official_files(sys.argv[1]))
total = sum(p.detach().sum().item() for part in networks.trained_parts().values()
            for p in part.parameters())
assert total == total
print(peak() - before)
"""


@pytest.mark.slow
def test_loading_needs_no_second_copy_in_memory(tmp_path):
    """In a process of its own, with every weight touched, peak memory grows by the files' size."""
    unet = replace(tiny().unet, widths=(256, 512), heads=8, layers=2, temporal=True)
    networks = empty_networks(replace(tiny(), unet=unet), training=False)
    initialise_missing(networks)
    export_official(networks, tmp_path / "files")
    size = sum(path.stat().st_size for path in (tmp_path / "files").iterdir())
    done = subprocess.run(
        [sys.executable, "-c", LOAD_AND_MEASURE, str(tmp_path / "files")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    ratio = int(done.stdout) / size
    print(f"peak growth / checkpoint size = {ratio:.2f} of {size / 1e6:.0f} MB")
    assert 0.9 < ratio <= 1.2
