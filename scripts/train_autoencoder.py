"""Train a small autoencoder on the clips of a data set, on a CPU or GPU.

python scripts/train_autoencoder.py SHARDS FOLDER [--steps 3000] [--threads 2]

About 40 minutes on one CPU core. Interrupted runs resume from FOLDER/state.pt, to the same bits.
The folder can be used as `network.autoencoder.path`, with kind "dc" and 16 channels.
"""

import argparse
import json
import math
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderDC
from torch import Tensor

from xnemo.data.clip_table import open_clips
from xnemo.data.config import AugmentConfig, DataConfig, PairConfig
from xnemo.data.sample_reader import ImageSizes, SampleReader
from xnemo.model.frozen.autoencoder import small_dc_shape

_SIDE, _CROP, _BATCH, _CHANNELS = 128, 64, 16, 16
_FRAMES, _LR, _SAVE_EVERY = 12, 2e-3, 200
# Largest standard deviation of the noise on latents in training: the decoder then accepts latents
# that a denoiser predicts inexactly.
_NOISE = 0.1
# Weight of the penalty that brings each channel's mean to 0 and its deviation to 1, so that latents
# need no scale.
_STANDARD = 0.02


def main() -> None:
    """Train, and save a diffusers folder."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("shards", help="data set of xnemo preprocess")
    parser.add_argument("folder", type=Path, help="diffusers folder to write")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    images = read_images(options.shards, "split == 'train'", _FRAMES)
    held_out = read_images(options.shards, "split == 'val'", 4)[:128].to(device)
    torch.manual_seed(0)
    model = AutoencoderDC(**small_dc_shape(_CHANNELS)).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=_LR, betas=(0.9, 0.99), fused=True)
    average = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    draw = torch.Generator().manual_seed(0)
    options.folder.mkdir(parents=True, exist_ok=True)
    state, first = options.folder / "state.pt", 0
    if state.is_file():
        saved = torch.load(state, weights_only=True, map_location=device)
        first, average = saved["step"], saved["average"]
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        draw.set_state(saved["draw"].cpu())
    for step in range(first, options.steps):
        cosine = 0.5 * (1 + math.cos(math.pi * step / options.steps))
        for group in optimizer.param_groups:
            group["lr"] = _LR * min(1.0, (step + 1) / 100) * (0.01 + 0.99 * cosine)
        loss = reconstruction_loss(model, draw_crops(images, draw).to(device), draw)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        weight = 1 - min(0.999, (step + 2) / (step + 11))
        for name, tensor in model.state_dict().items():
            average[name].lerp_(tensor, weight)
        if (step + 1) % _SAVE_EVERY == 0 or step + 1 == options.steps:
            content = {
                "step": step + 1,
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "average": average,
                "draw": draw.get_state(),
            }
            torch.save(content, state.with_suffix(".part"))
            state.with_suffix(".part").replace(state)
            record = {"step": step + 1, "loss": round(float(loss.detach()), 4)}
            print(json.dumps(record | {"psnr": round(psnr(model, held_out), 2)}), flush=True)
    model.load_state_dict(average)
    with torch.no_grad():
        spread = float(model.encode(held_out.float() / 127.5 - 1).latent.std())
    model.register_to_config(scaling_factor=round(1 / spread, 4))
    print(json.dumps({"averaged weights, psnr": round(psnr(model, held_out), 2)}))
    model.save_pretrained(options.folder)


def read_images(shards: str, rows: str, frames: int) -> Tensor:
    """Return frames of all clips as the networks see them, uint8 (N, 3, 128, 128)."""
    clips = open_clips([shards], rows, min_frames=frames)
    config = replace(DataConfig(), pairs=PairConfig(frames=frames))
    sizes = ImageSizes(wide=_SIDE, driving=_CROP, head=None)
    reader = SampleReader(clips, config, AugmentConfig(), sizes, seed=5)
    samples = [reader.read(number).target for number in range(len(clips.rows))]
    return torch.cat([torch.from_numpy(sample) for sample in samples]).permute(0, 3, 1, 2)


def draw_crops(images: Tensor, draw: torch.Generator) -> Tensor:
    """Return a batch of random crops in [-1, 1], half of them mirrored."""
    chosen = torch.randint(len(images), (_BATCH,), generator=draw).tolist()
    corners = torch.randint(0, (_SIDE - _CROP) // 4 + 1, (_BATCH, 2), generator=draw) * 4
    places = zip(chosen, corners.tolist(), strict=True)
    crops = torch.stack([images[k, :, y : y + _CROP, x : x + _CROP] for k, (y, x) in places])
    mirrored = torch.rand(_BATCH, generator=draw) < 0.5
    crops = crops.float() / 127.5 - 1
    return torch.where(mirrored[:, None, None, None], crops.flip(-1), crops)


def reconstruction_loss(model: AutoencoderDC, x: Tensor, draw: torch.Generator) -> Tensor:
    """Return distance of pixels, of their differences and of 4×4 means, and the penalty."""
    z = model.encode(x).latent
    noise = torch.randn(z.shape, generator=draw) * torch.rand(len(z), 1, 1, 1, generator=draw)
    difference = model.decode(z + _NOISE * noise.to(z)).sample - x
    edges = difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()
    penalty = z.mean((0, 2, 3)).square().mean() + (z.std((0, 2, 3)) - 1).square().mean()
    loss: Tensor = difference.abs().mean() + difference.square().mean() + edges
    return loss + 0.5 * F.avg_pool2d(difference, 4).abs().mean() + _STANDARD * penalty


@torch.no_grad()
def psnr(model: AutoencoderDC, images: Tensor) -> float:
    """Return the peak signal-to-noise ratio of reconstructions in dB."""
    x = images.float() / 127.5 - 1
    y = torch.cat([model.decode(model.encode(part).latent).sample for part in x.split(16)])
    return float(-10 * ((y.clamp(-1, 1) - x) / 2).square().mean().log10())


if __name__ == "__main__":
    main()
