"""Steps and guidance that the user leaves empty."""

from xnemo.animation.config import AnimateConfig
from xnemo.diffusion.sampler import SamplerConfig
from xnemo.diffusion.schedule import DiffusionConfig


def test_empty_settings_are_the_models_and_given_ones_stay():
    model = DiffusionConfig(sampling_steps=8, sampling_guidance=1.0)
    filled = AnimateConfig(strength=0.5).for_model(model)
    assert (filled.steps, filled.guidance, filled.strength) == (8, 1.0, 0.5)
    given = SamplerConfig(steps=3, guidance=0.0).for_model(model)
    assert (given.steps, given.guidance) == (3, 0.0)
    release = SamplerConfig().for_model(DiffusionConfig())
    assert (release.steps, release.guidance) == (35, 2.5)
