"""Perceptual loss: L1 distance of the features of a frozen VGG."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from preprocessing.errors import UserError, first_line
from preprocessing.paths import user_path

# Convolutions per stage; each stage but the last ends in a 2×2 max-pool.
FILES = {"vgg16": "vgg16-397923af.pth", "vgg19": "vgg19-dcbb9e9d.pth"}
STAGES = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
WIDTHS = (64, 128, 256, 512, 512)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class PerceptualConfig:
    """Network and weights of the perceptual loss; `PerceptualLoss(config)` builds it."""

    # Depth of the network.
    network: Literal["vgg16", "vgg19"] = "vgg19"
    # Path to torchvision's file (vgg19-dcbb9e9d.pth, vgg16-397923af.pth) or to its safetensors
    # equivalent; "random": untrained features of a fixed seed, which still compare structure at
    # several scales. Required where `loss.perceptual` is above 0.
    weights: str | None = None
    # Weight of each stage's first activation, finest first. Not published; chosen because image
    # translation networks have used these values since pix2pixHD.
    stage_weights: tuple[float, ...] = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)

    def __post_init__(self) -> None:
        if self.network not in STAGES:
            raise UserError(
                f"perceptual.network = {self.network!r} is unknown", f"use one of {tuple(STAGES)}"
            )
        if len(self.stage_weights) != len(WIDTHS) or min(self.stage_weights) < 0:
            raise UserError(
                f"perceptual.stage_weights = {self.stage_weights}",
                f"give {len(WIDTHS)} weights, none negative",
            )


def require_weights(config: PerceptualConfig) -> Path | None:
    """Return the file of the weights, or None for random ones.

    Raises:
        UserError: No weights are given, or their file is missing.
    """
    if config.weights is None:
        raise UserError(
            "the perceptual loss has a weight, and perceptual.weights is empty",
            f"{_download(config.network)} and set perceptual.weights={FILES[config.network]}, "
            "or set loss.perceptual=0",
        )
    if config.weights == "random":
        return None
    file = user_path(config.weights)
    if not file.is_file():
        raise UserError(
            f"perceptual.weights = {config.weights!r}: no such file",
            f"{_download(config.network)}, or set loss.perceptual=0",
        )
    return file


class VggFeatures(nn.Module):
    """VGG's convolutions up to the first activation of the last stage.

    Layers are numbered as in torchvision (convolutions, ReLUs and pools alike), whose files load.
    """

    def __init__(self, network: str) -> None:
        super().__init__()
        self.features = nn.ModuleDict()
        self.taps: list[str] = []
        index, previous = 0, 3
        for stage, (convs, width) in enumerate(zip(STAGES[network], WIDTHS, strict=True)):
            for i in range(convs):
                if stage == len(WIDTHS) - 1 and i > 0:
                    break
                self.features[str(index)] = nn.Conv2d(previous, width, 3, padding=1)
                self.features[str(index + 1)] = nn.ReLU()
                if i == 0:
                    self.taps.append(str(index + 1))
                previous = width
                index += 2
            self.features[str(index)] = nn.MaxPool2d(2)
            index += 1
        # No activation is read beyond the last.
        del self.features[str(index - 1)]

    def forward(self, x: Tensor) -> Iterator[Tensor]:
        """Yield the first activation of each stage."""
        for name, layer in self.features.items():
            x = layer(x)
            if name in self.taps:
                yield x


class PerceptualLoss(nn.Module):
    """Weighted L1 distance of VGG features between two batches of images in [-1, 1].

    Frozen; gradients flow to the first batch only. Features are computed in the dtype of the images
    and compared in fp32.

    Raises:
        UserError: No weights are given, or their file is missing, damaged or of another network.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: PerceptualConfig) -> None:
        super().__init__()
        self.stage_weights = config.stage_weights
        file = require_weights(config)
        self.vgg = VggFeatures(config.network)
        if file is None:
            _fill_random(self.vgg)
        else:
            _load(self.vgg, file, config.network)
        self.vgg.requires_grad_(False).eval()
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)

    def forward(self, image_BCHW: Tensor, target_BCHW: Tensor) -> Tensor:
        """Return the distance between (B, 3, H, W) batches, a scalar."""
        features = self.vgg(self._normalise(image_BCHW))
        with torch.no_grad():
            targets = list(self.vgg(self._normalise(target_BCHW)))
        total = image_BCHW.new_zeros((), dtype=torch.float32)
        for weight, feature, target in zip(self.stage_weights, features, targets, strict=True):
            total = total + weight * F.l1_loss(feature.float(), target.float())
        return total

    def _normalise(self, image_BCHW: Tensor) -> Tensor:
        x = (image_BCHW + 1) / 2
        return (x - self.mean.to(x)) / self.std.to(x)


def _fill_random(vgg: VggFeatures) -> None:
    """Initialise with He weights of a fixed seed, the same on every worker."""
    generator = torch.Generator().manual_seed(0)
    for layer in vgg.features.values():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)


def _download(network: str) -> str:
    return f"run curl -LO https://download.pytorch.org/models/{FILES[network]}"


def _load(vgg: VggFeatures, path: Path, network: str) -> None:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling raises anything
        raise UserError(
            f"perceptual.weights = {str(path)!r} is not a file of tensors: {first_line(error)}",
            f"download torchvision's {network} file again",
        ) from error
    own = vgg.state_dict()
    wrong = [
        name
        for name, tensor in own.items()
        if name not in state or state[name].shape != tensor.shape
    ]
    # The published files also have deeper layers and a classifier, which are ignored; all layers
    # used here must be present, and the number of convolutions identifies the network.
    count = sum(name.startswith("features.") and name.endswith(".weight") for name in state)
    if wrong or count not in (len(own) // 2, sum(STAGES[network])):
        raise UserError(
            f"perceptual.weights = {str(path)!r} is not {network}: "
            + (f"{wrong[0]} is missing or of another shape" if wrong else f"{count} convolutions"),
            "set perceptual.network to the network of the file, or use another file",
        )
    vgg.load_state_dict({name: state[name] for name in own})
