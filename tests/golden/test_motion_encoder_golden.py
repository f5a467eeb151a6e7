"""The full-size motion encoder gives the authors' numbers."""

import numpy as np
import pytest
import torch

from xnemo.model.motion.encoder import MotionEncoder

PREFIX = "_tap_"


@pytest.fixture(scope="module", params=["A", "B"])
def encoded(request, official_dir, manifest, fill):
    """Golden arrays of one fill rule, and what our encoder and its inner modules return."""
    rule = request.param
    golden = np.load(official_dir / "motion_encoder.npz")
    encoder = fill(MotionEncoder(), manifest("motion_encoder"), rule)
    taps: dict[str, torch.Tensor] = {}
    names = {
        key[len(rule + PREFIX) :].removesuffix("_stats")
        for key in golden
        if key.startswith(rule + PREFIX)
    }
    for name in names:
        encoder.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, output, name=name: taps.__setitem__(name, output)
        )
    with torch.no_grad():
        latent = encoder(torch.from_numpy(golden["image"]), torch.from_numpy(golden["bbox"]))
    arrays = {key[2:]: golden[key] for key in golden if key.startswith(rule)}
    return arrays, taps, latent


def test_tokens_and_motion_vector_are_the_official_ones(encoded, assert_golden):
    golden, _, latent = encoded
    assert_golden(latent.tokens, golden["tokens"], "tokens")
    assert_golden(latent.face, golden["facemot"], "face")
    assert_golden(latent.fused, golden["tap_final_proj"], "fused")


def test_every_inner_module_gives_the_official_output(encoded, assert_golden):
    golden, taps, _ = encoded
    checked = 0
    for key, array in golden.items():
        if not key.startswith("tap_"):
            continue
        name = key.removeprefix("tap_").removesuffix("_stats")
        tap = taps[name]
        if key.endswith("_stats"):
            assert_golden([tap.mean(), tap.std(), tap.abs().max()], array, key)
        else:
            assert_golden(tap, array, key)
        checked += 1
    assert checked == 17
