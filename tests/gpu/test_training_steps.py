"""Training steps on a GPU: every recipe at reduced width, engines, compilation, and resumption."""

import math
import os
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from random_steps import RandomSteps, reduced

from xnemo.recipes import RECIPES

pytestmark = pytest.mark.gpu


def small_step(recipe: str, device: torch.device, **engine: object) -> RandomSteps:
    config = reduced(RECIPES[recipe].build(), **engine)
    # Adam blows up rounding where a gradient is zero but for it; a large epsilon does not.
    optimizer = replace(config.optimizer, eps=1e-3)
    return RandomSteps(replace(config, micro_batch=4, global_batch=4, optimizer=optimizer), device)


@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_a_step_of_every_recipe_in_bf16_changes_what_it_trains(recipe, device):
    steps = small_step(recipe, device, precision="bf16")
    modules = {name: engine.module for name, engine in steps.engines.items()}
    before = {name: deepcopy(module.state_dict()) for name, module in modules.items()}
    # Zero-initialised outputs pass no gradient to what lies before them in the first step.
    for _ in range(3):
        values = steps.step()
        assert all(math.isfinite(value) for value in values.values()), values
    for owner, module in modules.items():
        for name, parameter in module.named_parameters():
            changed = not torch.equal(parameter, before[owner][name])
            assert changed == parameter.requires_grad, f"{owner}: {name}"


def test_the_gpu_gives_the_numbers_of_the_cpu(device):
    here, there = (small_step("tiny", d, precision="fp32") for d in (device, torch.device("cpu")))
    # One step: later ones amplify rounding through the discriminator.
    one, other = here.step(), there.step()
    assert one == pytest.approx(other, rel=2e-3)


@pytest.mark.skipif(os.environ.get("XNEMO_GPU_TEST_DEVICE") == "cpu", reason="compiles for minutes")
def test_compiled_blocks_give_the_losses_of_eager_ones(device):
    eager = small_step("image", device, precision="bf16").step()
    compiled = small_step("image", device, precision="bf16", compile=True).step()
    assert compiled["diffusion"] == pytest.approx(eager["diffusion"], rel=0.02)


def test_a_saved_state_goes_on_with_the_same_numbers(device):
    steps = small_step("tiny", device, precision="fp32")
    for _ in range(2):
        steps.step()
    saved = {
        name: (deepcopy(engine.module.state_dict()), engine.full_moments())
        for name, engine in steps.engines.items()
    }
    expected = steps.step()
    again = small_step("tiny", device, precision="fp32")
    again.done = 2
    for name, engine in again.engines.items():
        weights, moments = saved[name]
        engine.module.load_state_dict(weights)
        engine.load_moments(moments)
    # Kernels that add in any order differ in the last bits.
    assert again.step() == pytest.approx(expected, rel=1e-2)


@pytest.fixture(scope="module")
def process_group(device, tmp_path_factory):
    """A group of this process alone, which ZeRO requires; DeepSpeed remembers its first one."""
    torch.distributed.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=torch.distributed.FileStore(str(tmp_path_factory.mktemp("group") / "store"), 1),
        rank=0,
        world_size=1,
    )
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_zero_follows_plain_torch(stage, device, process_group):
    pytest.importorskip("deepspeed")
    ours = small_step("tiny", device, precision="fp32", kind="deepspeed", zero_stage=stage)
    plain = small_step("tiny", device, precision="fp32")
    # Later steps amplify rounding through the discriminator.
    for _ in range(3):
        assert ours.step() == pytest.approx(plain.step(), rel=5e-3, abs=1e-3)
    for name, engine in ours.engines.items():
        expected = plain.engines[name].full_weights()
        assert engine.full_moments().updates == 3
        for weight, value in engine.full_weights().items():
            torch.testing.assert_close(value, expected[weight], rtol=0.01, atol=1e-3)
