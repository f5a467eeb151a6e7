"""The block DCT autoencoder."""

import pytest
import torch

from preprocessing.errors import UserError
from xnemo.model.frozen.autoencoder import AutoencoderConfig, make_autoencoder


def autoencoder(**changes):
    return make_autoencoder(AutoencoderConfig("block_dct", path=None, **changes))


def test_all_frequencies_reconstruct_the_image():
    whole = autoencoder(factor=4, dct_kept=(16, 16))
    x = torch.rand(2, 3, 16, 24) * 2 - 1
    z = whole.encode(x)
    assert z.shape == (2, 48, 4, 6)
    torch.testing.assert_close(whole.decode(z), x, rtol=0, atol=1e-5)


def test_coding_is_an_orthogonal_projection():
    """Coding is a projection: idempotent, with an orthogonal error."""
    low = autoencoder(factor=8)
    x = torch.rand(1, 3, 32, 32) * 2 - 1
    kept = low.decode(low.encode(x))
    torch.testing.assert_close(low.decode(low.encode(kept)), kept, rtol=0, atol=1e-5)
    assert abs(float((kept * (x - kept)).mean())) < 1e-6
    more = autoencoder(factor=8, dct_kept=(40, 12))
    assert (more.decode(more.encode(x)) - x).square().sum() < (kept - x).square().sum()


def test_grey_and_slow_gradients_survive():
    low = autoencoder(factor=8, dct_kept=(3, 1))
    ramp = torch.linspace(-0.5, 0.5, 32).expand(1, 3, 32, 32)
    assert (low.decode(low.encode(ramp)) - ramp).abs().max() < 0.02


@pytest.mark.parametrize("kept", [(0, 4), (24, 0), (65, 4)])
def test_impossible_counts_are_refused(kept):
    with pytest.raises(UserError, match="dct_kept"):
        AutoencoderConfig("block_dct", path=None, factor=8, dct_kept=kept)
