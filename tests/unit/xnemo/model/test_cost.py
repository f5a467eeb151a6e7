"""The computed cost of a training step against real steps."""

from dataclasses import asdict, replace

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from xnemo.model.config import full, tiny
from xnemo.model.cost import training_cost
from xnemo.model.networks import build_networks


def config():
    return replace(tiny(), unet=replace(tiny().unet, temporal=True))


@pytest.fixture(scope="module")
def real() -> tuple[float, int]:
    """Operations, and bytes kept for the backward pass, of a real step of one sample."""
    networks = build_networks(config())
    parts = networks.trained_parts()
    for part in parts.values():
        part.train()
    # A single sample has no batch statistics.
    networks.motion_encoder.standards.eval()
    weights = {t.data_ptr() for m in parts.values() for t in (*m.parameters(), *m.buffers())}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    z, tokens = torch.randn(1, 12, 1, 16, 16), torch.randn(1, 1, 48)
    with (
        FlopCounterMode(display=False) as counter,
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
    ):
        latent = networks.motion_encoder(torch.randn(1, 3, 1, 32, 32), torch.randn(1, 1, 3))
        reference = networks.reference_net(z[:, :, 0], tokens)
        loss = networks.denoiser(z, 9, tokens, latent.tokens, reference).sum()
        image = networks.gan_head(torch.randn(1, 3, 32, 32), latent.face[:, 0])
        for image_in in (image, image.detach(), image.detach()):
            loss = loss + sum(scale.logits.sum() for scale in networks.discriminator(image_in))
        size = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
        loss.backward()
    return counter.get_total_flops(), size


def test_operations_and_activations_are_those_of_a_real_step(real):
    cost = training_cost(config(), precision="fp32", gradient_checkpointing=False)
    # The counter knows the GPU's fused attention, not the CPU's: the real count lacks it.
    assert 1 <= cost.flops_per_sample / real[0] < 1.2
    assert cost.activations == pytest.approx(real[1], rel=0.1)


def test_activations_grow_with_the_batch_and_shrink_with_checkpoints():
    plain = training_cost(config(), batch=2, gradient_checkpointing=False)
    checkpointed = training_cost(config(), batch=2)
    assert (
        plain.activations == 2 * training_cost(config(), gradient_checkpointing=False).activations
    )
    assert checkpointed.activations < 0.8 * plain.activations
    assert checkpointed.flops_per_sample == plain.flops_per_sample
    assert 0 < checkpointed.recompute_flops_per_sample < plain.flops_per_sample / 3
    assert plain.recompute_flops_per_sample == 0


def test_states_scale_with_parameters_and_zero_shards_them():
    networks = build_networks(config())
    trained = sum(
        p.numel()
        for name, part in networks.trained_parts().items()
        for p in part.parameters()
        # The readout is there in few runs, and is a matrix of no size.
        if p.requires_grad and name != "motion_readout"
    )
    costs = [
        training_cost(config(), precision="fp32", zero_stage=stage, devices=4) for stage in range(4)
    ]
    assert costs[0].trained_parameters == trained
    assert costs[0].gradients == 4 * trained
    assert costs[0].optimizer == 8 * trained
    assert [c.optimizer / costs[0].optimizer for c in costs] == [1, 0.375, 0.375, 0.25]
    assert [c.gradients / costs[0].gradients for c in costs] == [1, 1, 0.25, 0.25]
    assert [c.weights / costs[0].weights for c in costs] == [1, 1, 1, 0.25]
    assert [c.ema for c in costs] == [trained] * 4
    assert costs[0].total > costs[3].total


def test_the_temporal_stage_trains_the_temporal_modules_alone():
    cost = training_cost(config(), frames=4, stage="temporal")
    networks = build_networks(config(), training=False)
    temporal = sum(
        p.numel() for n, p in networks.denoiser.named_parameters() if ".temporal_modules." in n
    )
    assert cost.trained_parameters == temporal
    assert cost.parameters.keys() == {"denoiser", "reference_net", "motion_encoder"}


@pytest.mark.slow
def test_the_full_network_is_forecast_without_a_gpu():
    cost = training_cost(full(), batch=4)
    assert cost.parameters["denoiser"] == 1_684_818_244
    # Weights, gradients, two moments and the average in fp32, and bf16 copies.
    assert 50 < cost.total / 2**30 < 80
    # One Stable Diffusion UNet is about 0.7 TFLOP forwards at 512²; here are two and modules.
    assert 5e12 < cost.flops_per_sample < 15e12
    assert cost.seconds_per_sample(tflops=400) < 0.2


def test_nothing_is_allocated(monkeypatch):
    """Every large tensor is on the meta device."""
    original = nn.Module.to

    def only_meta(module: nn.Module, *args, **kwargs):
        assert args[0] == "meta"
        return original(module, *args, **kwargs)

    monkeypatch.setattr(nn.Module, "to", only_meta)
    assert asdict(training_cost(tiny()))["activations"] > 0
