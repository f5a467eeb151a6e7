"""Initial weights: each kind is loaded, anything else is a one-line error."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file

from preprocessing.errors import UserError
from xnemo.diffusion.schedule import DiffusionConfig
from xnemo.model.config import MotionEncoderConfig, NetworkConfig
from xnemo.model.loading.official import export_official
from xnemo.model.motion.encoder import MotionEncoder
from xnemo.model.networks import Networks, build_networks, empty_networks
from xnemo.model.unet.config import UNetConfig
from xnemo.model.unet.denoising_unet import DenoisingUNet
from xnemo.model.unet.reference_net import ReferenceNet
from xnemo.training.engines.world import current_world
from xnemo.training.init_from import load_init_from
from xnemo.training.setup import build_train_state

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def started(faces: Path, nano: Callable[..., Any]) -> Callable[..., dict[str, torch.Tensor]]:
    """Open a state that starts from something; returns the weights it would train."""

    def start(path: Path, **changes: Any) -> dict[str, torch.Tensor]:
        config = nano(init_from=str(path), **changes)
        state = build_train_state(config, [str(faces)], current_world("cpu"), None)
        return state.network.module.state_dict()

    return start


@pytest.fixture(scope="module")
def stable_diffusion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusers pipeline's folder with a UNet of the smallest run's shape."""
    torch.manual_seed(3)
    unet = UNet2DConditionModel(
        in_channels=48,
        out_channels=48,
        block_out_channels=(16, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        attention_head_dim=2,
        cross_attention_dim=12,
        norm_num_groups=4,
    )
    folder = tmp_path_factory.mktemp("sd")
    unet.save_pretrained(folder / "unet")
    return folder


def assert_holds(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert wanted
    assert [name for name, tensor in wanted.items() if not torch.equal(found[name], tensor)] == []


def test_another_prediction_type_is_a_warning(
    short_run: Path, nano: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    config = nano()
    for prediction_type, told in (("v_prediction", False), ("sample", True)):
        networks = empty_networks(config.network, training=True)
        diffusion = replace(config.diffusion, prediction_type=prediction_type)
        load_init_from(networks, str(short_run), "ema", diffusion)
        assert ("predicts v_prediction and this run trains sample" in caplog.text) == told


@pytest.mark.parametrize("place", ["bundle", "", "bundle/raw.safetensors"])
def test_a_bundle_by_its_folder_run_or_file(
    short_run: Path, started: Callable[..., dict[str, torch.Tensor]], place: str
) -> None:
    found = started(short_run / place)
    raw = load_file(short_run / "bundle" / "raw.safetensors")
    ema = raw | load_file(short_run / "bundle" / "ema.safetensors")
    wanted = raw if place.endswith("raw.safetensors") else ema
    assert_holds(found, {n: t for n, t in wanted.items() if not n.startswith("discriminator.")})
    raw_asked = started(short_run / "bundle", init_weights="raw")
    assert_holds(raw_asked, {n: t for n, t in raw.items() if not n.startswith("discriminator.")})


@pytest.mark.parametrize("place", ["", "unet", f"unet/{WEIGHTS}"])
def test_stable_diffusion_as_pipeline_unet_or_one_file(
    stable_diffusion: Path, started: Callable[..., dict[str, torch.Tensor]], place: str
) -> None:
    found = started(stable_diffusion / place)
    unet = load_file(stable_diffusion / "unet" / WEIGHTS)
    assert_holds(found, {f"denoiser.{name}": tensor for name, tensor in unet.items()})
    shared = {f"reference_net.{n}": t for n, t in unet.items() if not n.startswith("conv_")}
    assert_holds(found, {n: t for n, t in shared.items() if n in found})


def test_the_official_files(
    tmp_path: Path, nano: Callable[..., Any], started: Callable[..., dict[str, torch.Tensor]]
) -> None:
    config = nano().network
    source = build_networks(
        replace(config, unet=replace(config.unet, temporal=True)), seed=9, training=False
    )
    export_official(source, tmp_path / "files")
    found = started(tmp_path / "files")
    for part in ("denoiser", "reference_net", "motion_encoder"):
        own = getattr(source, part).state_dict()
        assert_holds(found, {k: t for n, t in own.items() if (k := f"{part}.{n}") in found})


def reduced(official_dir: Path) -> Networks:
    """The networks of the authors' listings: UNets at reduced width, the motion encoder whole."""
    shape = json.loads((official_dir / "unet_small_config.json").read_text())
    unet = UNetConfig.from_diffusers(shape)
    with torch.device("meta"):
        denoiser = DenoisingUNet(**asdict(unet))
        reference_net = ReferenceNet.from_unet_config(unet)
        motion_encoder = MotionEncoder(**asdict(MotionEncoderConfig()))
    frozen: Any = None
    config = NetworkConfig()
    parts = (denoiser, reference_net, motion_encoder)
    return Networks(config, *parts, autoencoder=frozen, image_embedding=frozen)


@pytest.mark.slow
def test_official_files_with_the_names_and_shapes_of_the_release(
    official_dir: Path, tmp_path: Path
) -> None:
    """Files made from the authors' own listings of reduced networks fill ours to the last key."""
    tensors: dict[str, dict[str, torch.Tensor]] = {}
    listings = {
        "denoising_unet": "denoising_unet_small",
        "reference_unet": "reference_unet_small",
        "motion_encoder": "motion_encoder",
    }
    for name, listing in listings.items():
        entries = json.loads((official_dir / f"{listing}.json").read_text())
        tensors[name] = {
            key: torch.full(entry["shape"], number % 97, dtype=getattr(torch, entry["dtype"]))
            for number, (key, entry) in enumerate(entries.items())
        }
    base = tensors["denoising_unet"]
    temporal = {key: base.pop(key) for key in list(base) if ".temporal_modules." in key}
    tensors["temporal_module"] = temporal
    for name, content in tensors.items():
        torch.save(content, tmp_path / f"xnemo_{name}.pth")
    networks = reduced(official_dir)
    load_init_from(networks, str(tmp_path), "ema", DiffusionConfig())
    parts = {
        "denoiser": base | temporal,
        "reference_net": tensors["reference_unet"],
        "motion_encoder": tensors["motion_encoder"],
    }
    for part, expected in parts.items():
        assert_holds(getattr(networks, part).state_dict(), expected)


def no_such(folder: Path, sd: Path) -> Path:
    return folder / "nowhere"


def empty(folder: Path, sd: Path) -> Path:
    return folder


def other(folder: Path, sd: Path) -> Path:
    save_file({"weight": torch.zeros(1)}, folder / "other.safetensors")
    return folder / "other.safetensors"


def one_of_four(folder: Path, sd: Path) -> Path:
    torch.save({}, folder / "xnemo_motion_encoder.pth")
    return folder


def lacking(folder: Path, sd: Path) -> Path:
    tensors = load_file(sd / "unet" / WEIGHTS)
    del tensors["conv_in.bias"]
    save_file(tensors, folder / "unet.safetensors")
    return folder / "unet.safetensors"


def torn(folder: Path, sd: Path) -> Path:
    (folder / "unet.safetensors").write_bytes((sd / "unet" / WEIGHTS).read_bytes()[:999])
    return folder / "unet.safetensors"


def wider(folder: Path, sd: Path) -> Path:
    shutil.copytree(sd / "unet", folder / "unet")
    config = json.loads((folder / "unet" / "config.json").read_text())
    config["block_out_channels"] = [32, 32]
    (folder / "unet" / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (no_such, "init_from=.*nowhere: no such file or folder"),
        (empty, "holds no weights that can start a network"),
        (other, "holds no weights that can start a network"),
        (one_of_four, "lacks xnemo_reference_unet.pth"),
        (lacking, "1 missing: conv_in.bias"),
        (torn, "damaged or not a safetensors file"),
        (wider, r"widths \(32, 32\)"),
    ],
)
def test_anything_else_is_a_one_line_error_and_loads_nothing(
    tmp_path: Path,
    stable_diffusion: Path,
    nano: Callable[..., Any],
    make: Callable[[Path, Path], Path],
    said: str,
) -> None:
    networks = empty_networks(nano().network, training=False)
    with pytest.raises(UserError, match=said) as refusal:
        load_init_from(networks, str(make(tmp_path, stable_diffusion)), "ema", DiffusionConfig())
    assert "\n" not in str(refusal.value)
    for part in networks.trained_parts().values():
        assert all(parameter.is_meta for parameter in part.parameters())
