"""Losses on held-out clips with fixed samples, noise and timesteps."""

import dataclasses
import math

import torch
import torch.nn.functional as F

from xnemo.data.batch import Batch
from xnemo.data.clip_table import open_clips
from xnemo.data.config import AugmentConfig
from xnemo.data.motion_numbers import READOUT_COLUMNS
from xnemo.data.sample_reader import ImageSizes, SampleReader
from xnemo.diffusion.objective import diffusion_loss
from xnemo.training.config import ConditionConfig, TrainConfig
from xnemo.training.engines.engine import Engine
from xnemo.training.engines.world import World
from xnemo.training.joint_network import JointOutput
from xnemo.training.motion_losses import motion_loss, r_squared, readout_sums
from xnemo.training.step_inputs import FrozenParts, MotionInputs, prepare_inputs

# Independent of the run's seed, so that validation losses compare between runs.
_SEED = 0x5EED
# Motion numbers whose R² is reported by name.
_NAMED = ("yaw", "pitch", "gaze_yaw", "eyeBlinkLeft", "jawOpen", "mouthSmileLeft", "browInnerUp")


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
            pairs=dataclasses.replace(config.data.pairs, matched=0.0),
            constant_box_probability=0.0,
            weights=(),
        )
        self._reader = SampleReader(clips, data, no_augmentation, sizes, seed=_SEED)

    @torch.no_grad()
    def measure(self, network: Engine) -> dict[str, float]:
        """Return mean losses over the held-out samples, split over all workers; collective.

        With a motion readout also its R² on the held-out people: the mean over all motion numbers
        that vary, and a few by name.
        """
        module, world = network.module, self._world
        was_training = module.training
        module.eval()
        totals = {"loss": 0.0, "head_l1": 0.0, "latent_std": 0.0, "samples": 0.0}
        read = torch.zeros(4, len(READOUT_COLUMNS), dtype=torch.float64)
        size = self._config.micro_batch
        rounds = -(-self._config.validation.samples // (size * world.size))
        for number in range(rounds):
            # Every worker runs every round, because ZeRO-3 gathers parameters in forward passes.
            first = (number * world.size + world.rank) * size
            batch = self._reader.read_batch(range(first, first + size)).to(world.device)
            totals["samples"] += size
            output = self._measure_batch(module, batch, totals)
            std = getattr(module, "latent_std", None)
            totals["latent_std"] += size * (float("inf") if std is None else float(std))
            if output.motion is not None and output.motion_target is not None:
                pair = (output.motion.flatten(0, 1), output.motion_target.flatten(0, 1))
                read += readout_sums(*pair).cpu()
        module.train(was_training)
        summed = dict(zip(totals, world.sum(list(totals.values())), strict=True))
        count = summed.pop("samples")
        if not self._config.uses_gan_head:
            del summed["head_l1"]
        metrics = {f"validation_{name}": value / count for name, value in summed.items()}
        if self._config.uses_motion_readout:
            sums = torch.tensor(world.sum(read.flatten().tolist())).view_as(read)
            metrics |= _accuracy(r_squared(sums))
        return metrics

    def _measure_batch(
        self, module: torch.nn.Module, batch: Batch, totals: dict[str, float]
    ) -> JointOutput:
        """Add a batch's losses to `totals`."""
        if self._config.stage == "motion":
            output: JointOutput = module(MotionInputs.of(batch))
            assert output.motion is not None
            assert output.motion_target is not None
            loss = motion_loss(output.motion, output.motion_target)
            totals["loss"] += float(loss) * len(batch)
            return output
        inputs = prepare_inputs(batch, self._frozen, ConditionConfig(dropout=0.0), seed=_SEED)
        output = module(inputs)
        assert output.prediction is not None
        losses = diffusion_loss(
            self._frozen.schedule,
            output.prediction,
            inputs.z_BCFhw,
            inputs.noise_BCFhw,
            inputs.timesteps_B,
        )
        totals["loss"] += float(losses.sum())
        if output.images is not None and inputs.head_target_NCHW is not None:
            distance = F.l1_loss(output.images.float(), inputs.head_target_NCHW)
            totals["head_l1"] += float(distance) * len(batch)
        return output


def _accuracy(r_squared_K: torch.Tensor) -> dict[str, float]:
    """Return the mean and the named numbers' R² that are known."""
    values = dict(zip(READOUT_COLUMNS, r_squared_K.tolist(), strict=True))
    known = {name: value for name, value in values.items() if not math.isnan(value)}
    if not known:
        return {}
    named = {f"validation_r2_{name}": known[name] for name in _NAMED if name in known}
    # A number that is predicted worse than its mean counts -1 at most.
    return {"validation_r2": sum(max(v, -1.0) for v in known.values()) / len(known), **named}
