"""What a frame costs in operations, ours and as the release computes it: counted, not timed."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from plain_inference import as_released
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from xnemo.model.config import NetworkConfig
from xnemo.model.motion.encoder import MotionEncoder
from xnemo.model.unet.denoising_unet import DenoisingUNet
from xnemo.model.unet.reference_net import ReferenceNet


@dataclass(frozen=True)
class Operations:
    """Multiplications and additions of a frame."""

    # The motion encoder's.
    encoder: float
    # The denoiser's in one step, both guidance branches: ours, and the plain copy's.
    ours: float
    plain: float

    @property
    def encoder_share(self) -> float:
        """Encoding motion against one step of denoising, as the plain copy does both."""
        return self.encoder / self.plain

    def saved(self, window: int) -> float:
        """The plain copy's operations of a step against ours, which encodes no motion in it."""
        return (self.plain + self.encoder * (1 + 1 / window)) / self.ours


@torch.no_grad()
def count_operations(config: NetworkConfig, window: int = 24) -> Operations:
    """Count on the meta device, for a whole window."""
    unet, crop, side = config.unet, config.motion.image_size, config.latent_size
    with torch.device("meta"):
        denoiser: Any = DenoisingUNet(**asdict(unet)).eval()
        encoder: Any = MotionEncoder(**asdict(config.motion)).eval()
        reference_net: Any = ReferenceNet.from_unet_config(unet).eval()
        z = torch.empty(1, unet.latent_channels, window, side, side)
        image_embedding = torch.empty(1, 1, unet.image_embedding_width)
        motion = torch.empty(1, window, config.motion.tokens, config.motion.token_width)
        face, box = torch.empty(1, 3, crop, crop), torch.empty(1, 3)
    for network in (denoiser, encoder, reference_net):
        # Position tables are made on the CPU whatever the device.
        torch.nn.Module.to(network, "meta")
    reference = reference_net(z[:, :, 0], image_embedding)

    def count(run: Callable[..., Tensor], *arguments: Any) -> float:
        with FlopCounterMode(display=False) as counter:
            run(*arguments)
        return float(counter.get_total_flops())

    def both_branches() -> float:
        arguments = (z, 500, image_embedding, motion)
        return sum(count(denoiser, *arguments, read) for read in (None, reference)) / window

    ours = both_branches()
    with as_released():
        plain = both_branches()
    return Operations(count(encoder, face, box), ours, plain)
