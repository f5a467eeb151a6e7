"""Blocks of tokens give what all of them at once give."""

import pytest
import torch
from diffusers.models.attention import FeedForward
from torch import Tensor

from xnemo.model.layers import feed_forward
from xnemo.model.layers.feed_forward import GatedFeedForward


@pytest.fixture
def layers() -> tuple[GatedFeedForward, FeedForward]:
    ours, theirs = GatedFeedForward(16), FeedForward(16, activation_fn="geglu")
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


@pytest.mark.parametrize("shape", [(3, 7, 16), (1, 16), (2, 50, 16), (2, 3, 5, 16)])
@pytest.mark.parametrize("rows", [1, 6, 64])
def test_blocks_change_nothing(layers, monkeypatch, shape, rows):
    monkeypatch.setattr(feed_forward, "_CPU_BLOCK", rows * 16 * 8 * 4)
    ours, theirs = layers
    tokens = torch.randn(shape)
    # As the denoiser has them: not contiguous.
    for given in (tokens, tokens.transpose(0, 1).contiguous().transpose(0, 1)):
        with torch.no_grad():
            torch.testing.assert_close(ours(given), theirs(given), rtol=1e-5, atol=1e-6)


def test_the_widened_tokens_are_never_all_there_in_inference(layers, monkeypatch):
    monkeypatch.setattr(feed_forward, "_CPU_BLOCK", 10 * 16 * 8 * 4)
    ours, _ = layers
    widest: list[int] = []

    def note(_module: object, _inputs: object, output: Tensor) -> None:
        widest.append(output.shape[0])

    ours.net[0].proj.register_forward_hook(note)
    with torch.no_grad():
        ours(torch.randn(1, 95, 16))
    assert sum(widest) == 95
    assert max(widest) <= 10


def test_training_sees_one_layer(layers):
    ours, theirs = layers
    tokens = torch.randn(4, 9, 16)
    for layer in (ours, theirs):
        layer(tokens).square().sum().backward()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad)
