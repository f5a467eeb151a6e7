"""Names, shapes and dtypes of the state dicts equal the official checkpoints'."""

import json
import time
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from torch import nn

from xnemo.model.config import full
from xnemo.model.motion.encoder import MotionEncoder
from xnemo.model.unet.config import UNetConfig
from xnemo.model.unet.denoising_unet import DenoisingUNet
from xnemo.model.unet.reference_net import ReferenceNet


def layout(module: nn.Module) -> dict:
    parameters = dict(module.named_parameters())
    return {
        key: (
            list(tensor.shape),
            str(tensor.dtype).removeprefix("torch."),
            "param" if key in parameters else "buffer",
        )
        for key, tensor in module.state_dict().items()
    }


def build(name: str, unet: UNetConfig) -> nn.Module:
    with torch.device("meta"):
        if name.startswith("motion"):
            return MotionEncoder(**asdict(full().motion))
        if name.startswith("reference"):
            return ReferenceNet.from_unet_config(unet)
        return DenoisingUNet(**asdict(unet))


@pytest.mark.parametrize("name", ["motion_encoder", "reference_unet", "denoising_unet"])
def test_full_size_layout_equals_the_official_one(name, manifest):
    official = {k: (v["shape"], v["dtype"], v["kind"]) for k, v in manifest(name).items()}
    assert layout(build(name, full().unet)) == official


@pytest.mark.parametrize("name", ["reference_unet_small", "denoising_unet_small"])
def test_reduced_layout_equals_the_official_one(name, manifest, official_dir: Path):
    config = json.loads((official_dir / "unet_small_config.json").read_text())
    official = {k: (v["shape"], v["dtype"], v["kind"]) for k, v in manifest(name).items()}
    assert layout(build(name, UNetConfig.from_diffusers(config))) == official


def test_full_size_networks_build_without_memory_in_seconds():
    start = time.perf_counter()
    parts = [
        build(name, full().unet) for name in ("motion_encoder", "reference_unet", "denoising_unet")
    ]
    assert time.perf_counter() - start < 10
    assert [round(sum(p.numel() for p in part.parameters()) / 1e6, 1) for part in parts] == [
        61.7,
        859.5,
        1684.8,
    ]
    assert all(p.is_meta for part in parts for p in part.parameters())


def test_only_the_temporal_modules_depend_on_the_temporal_switch():
    config = asdict(full().unet)
    with torch.device("meta"):
        image = set(DenoisingUNet(**config | {"temporal": False}).state_dict())
    whole = set(build("denoising_unet", full().unet).state_dict())
    assert image < whole
    assert all(".temporal_modules." in key for key in whole - image)
    assert len(image) == 1232
