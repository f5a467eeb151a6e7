"""Losses on held-out clips with fixed samples, noise and timesteps."""

import dataclasses

import torch
import torch.nn.functional as F

from xnemo.data.clip_table import open_clips
from xnemo.data.config import AugmentConfig
from xnemo.data.sample_reader import ImageSizes, SampleReader
from xnemo.diffusion.objective import diffusion_loss
from xnemo.training.config import ConditionConfig, TrainConfig
from xnemo.training.engines.engine import Engine
from xnemo.training.engines.world import World
from xnemo.training.step_inputs import FrozenParts, prepare_inputs

# Independent of the run's seed, so that validation losses compare between runs.
_SEED = 0x5EED


class Validator:
    """Measure the current weights without changing the training modules.

    There is no dropout, masking or augmentation, so the losses compare between runs that train
    differently.
    """

    def __init__(
        self,
        config: TrainConfig,
        roots: tuple[str, ...],
        sizes: ImageSizes,
        frozen: FrozenParts,
        world: World,
    ) -> None:
        self._config, self._frozen, self._world = config, frozen, world
        clips = open_clips(
            roots, config.validation.filter, min_frames=config.data.pairs.least_frames
        )
        no_augmentation = AugmentConfig(
            brightness=0, contrast=0, saturation=0, hue=0, scale=0, aspect=0, shift=0, warp=0
        )
        data = dataclasses.replace(
            # One bad clip is replaced, as in training.
            config.data,
            constant_box_probability=0.0,
            weights=(),
        )
        self._reader = SampleReader(clips, data, no_augmentation, sizes, seed=_SEED)

    @torch.no_grad()
    def measure(self, network: Engine) -> dict[str, float]:
        """Return mean losses over the held-out samples, split over all workers; collective."""
        module, world = network.module, self._world
        was_training = module.training
        module.eval()
        totals = {"loss": 0.0, "head_l1": 0.0, "samples": 0.0}
        size = self._config.micro_batch
        rounds = -(-self._config.validation.samples // (size * world.size))
        for number in range(rounds):
            # Every worker runs every round, because ZeRO-3 gathers parameters in forward passes.
            first = (number * world.size + world.rank) * size
            batch = self._reader.read_batch(range(first, first + size)).to(world.device)
            inputs = prepare_inputs(batch, self._frozen, ConditionConfig(dropout=0.0), seed=_SEED)
            prediction, images, *_ = module(inputs)
            losses = diffusion_loss(
                self._frozen.schedule,
                prediction,
                inputs.z_BCFhw,
                inputs.noise_BCFhw,
                inputs.timesteps_B,
            )
            totals["loss"] += float(losses.sum())
            totals["samples"] += size
            if images is not None and inputs.head_target_NCHW is not None:
                distance = F.l1_loss(images.float(), inputs.head_target_NCHW)
                totals["head_l1"] += float(distance) * size
        module.train(was_training)
        summed = dict(zip(totals, world.sum(list(totals.values())), strict=True))
        count = summed.pop("samples")
        if not self._config.uses_gan_head:
            del summed["head_l1"]
        return {f"validation_{name}": value / count for name, value in summed.items()}
