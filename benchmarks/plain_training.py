"""Plain DDP training loop, the baseline of `bench_training.py`.

It uses the same networks, losses and loader, without engines, guards, averages, checkpoints, logs
and trackers.

    plain_training.py RANK WORLD CONFIG.json DATA STORE STEPS
"""

import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel

from xnemo.config import from_dict
from xnemo.data.batch_plan import plan_batches
from xnemo.data.clip_table import open_clips
from xnemo.data.loader import BatchLoader
from xnemo.data.sample_reader import ImageSizes, SampleReader
from xnemo.diffusion.objective import diffusion_loss
from xnemo.diffusion.schedule import NoiseSchedule
from xnemo.model.gan.adversarial_losses import (
    feature_matching,
    hinge_discriminator,
    hinge_generator,
)
from xnemo.model.networks import build_networks
from xnemo.training.config import TrainConfig
from xnemo.training.joint_network import JointNetwork
from xnemo.training.motion_losses import motion_loss
from xnemo.training.motion_statistics import motion_statistics
from xnemo.training.step_inputs import FrozenParts, prepare_inputs


def main() -> None:
    """Train and print the seconds of each step, as JSON, on the first worker."""
    rank, world, config_file, data, store, steps = sys.argv[1:]
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=int(rank), world_size=int(world)
    )
    config = from_dict(TrainConfig, json.loads(Path(config_file).read_text()))
    plan = plan_batches(config.global_batch, config.micro_batch, int(rank), int(world))
    networks = build_networks(config.network, config.seed)
    frozen = FrozenParts(
        networks.autoencoder, networks.image_embedding, NoiseSchedule(config.diffusion)
    )
    sizes = ImageSizes(
        config.network.image_size,
        config.network.motion.image_size,
        config.network.gan.image_size,
        motion_numbers=True,
    )
    clips = open_clips([data], config.data.filter)
    reader = SampleReader(clips, config.data, config.augment, sizes, seed=config.seed)
    networks.motion_readout.set_statistics(*motion_statistics(reader))
    joint = JointNetwork(networks, config).train()
    discriminator = networks.discriminator.train()
    network = DistributedDataParallel(joint, broadcast_buffers=False)
    ddp_discriminator = DistributedDataParallel(discriminator, broadcast_buffers=False)
    trained = [p for p in joint.parameters() if p.requires_grad]
    optimizers = [
        torch.optim.AdamW(trained, lr=config.optimizer.lr),
        torch.optim.AdamW(discriminator.parameters(), lr=config.optimizer.discriminator_lr),
    ]
    times = []
    with BatchLoader(reader, plan) as loader:
        for _ in range(int(steps)):
            begin = time.perf_counter()
            batch, _ = next(loader)
            inputs = prepare_inputs(batch.to("cpu"), frozen, config.condition, seed=config.seed)
            step(
                network,
                ddp_discriminator,
                discriminator,
                optimizers,
                inputs,
                frozen.schedule,
                config,
            )
            times.append(time.perf_counter() - begin)
    if rank == "0":
        print(json.dumps(times))
    dist.destroy_process_group()


def step(network, ddp_discriminator, discriminator, optimizers, inputs, schedule, config):
    prediction, images, motion, motion_target = network(inputs)
    loss = diffusion_loss(
        schedule, prediction, inputs.z_BCFhw, inputs.noise_BCFhw, inputs.timesteps_B
    ).mean()
    loss = loss + config.loss.motion * motion_loss(motion, motion_target, inputs.present_B)
    discriminator.requires_grad_(False)
    fake = discriminator(images)
    with torch.no_grad():
        real = discriminator(inputs.head_target_NCHW)
    weights = config.loss
    loss = loss + weights.gan * (
        weights.l1 * F.l1_loss(images, inputs.head_target_NCHW)
        + weights.adversarial * hinge_generator(fake)
        + weights.feature_matching * feature_matching(real, fake)
    )
    optimizers[0].zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(network.parameters(), config.optimizer.clip)
    optimizers[0].step()

    discriminator.requires_grad_(True)
    count = len(images)
    outputs = ddp_discriminator(torch.cat([inputs.head_target_NCHW, images.detach()]))
    parts = [
        [type(o)(o.logits[part], [f[part] for f in o.features]) for o in outputs]
        for part in (slice(count), slice(count, None))
    ]
    optimizers[1].zero_grad()
    hinge_discriminator(*parts).backward()
    torch.nn.utils.clip_grad_norm_(ddp_discriminator.parameters(), config.optimizer.clip)
    optimizers[1].step()


if __name__ == "__main__":
    main()
