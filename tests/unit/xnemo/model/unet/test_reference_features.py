"""Masking and absence of reference features, sample by sample."""

import pytest
import torch

from xnemo.model.unet.reference_features import ReferenceFeatures


@pytest.fixture
def features():
    torch.manual_seed(0)
    return ReferenceFeatures({"a": torch.randn(3, 10, 4), "b": torch.randn(3, 7, 2)})


@pytest.mark.parametrize(("ratio", "kept"), [(0.3, (7, 4)), (0.4, (6, 4)), (0.95, (0, 0))])
def test_tokens_are_removed_not_zeroed(features, ratio, kept):
    masked = features.mask_tokens(ratio, [1, 2, 3])
    assert tuple(t.shape[1] for t in masked.by_block.values()) == kept
    for name, tokens in masked.by_block.items():
        for i in range(3):
            whole = {tuple(row.tolist()) for row in features.by_block[name][i]}
            rows = [tuple(row.tolist()) for row in tokens[i]]
            assert len(set(rows)) == len(rows)
            assert set(rows) <= whole


def test_masking_depends_only_on_seed_and_block(features):
    whole = features.mask_tokens(0.3, [1, 2, 3])
    alone = features.select([2]).mask_tokens(0.3, [3])
    again = features.select([2, 0]).mask_tokens(0.3, [3, 1])
    for name in whole.by_block:
        assert torch.equal(whole.by_block[name][2:], alone.by_block[name])
        assert torch.equal(whole.by_block[name][[2, 0]], again.by_block[name])
    same = ReferenceFeatures({"a": torch.arange(50.0)[None, :, None].repeat(2, 1, 1)})
    twice = ReferenceFeatures({"a": same.by_block["a"], "b": same.by_block["a"]})
    masked = twice.mask_tokens(0.5, [1, 2]).by_block
    assert not torch.equal(masked["a"][0], masked["a"][1])
    assert not torch.equal(masked["a"][0], masked["b"][0])


def test_all_tokens_are_dropped_equally_often():
    tokens = torch.arange(20.0)[None, :, None].expand(2000, -1, -1)
    masked = ReferenceFeatures({"a": tokens}).mask_tokens(0.3, range(2000)).by_block["a"]
    counts = torch.bincount(masked.flatten().long(), minlength=20)
    # 2000 draws of probability 0.7: five standard deviations are about 100.
    assert (counts - 1400).abs().max() < 110


def test_only_kept_tokens_get_gradients(features):
    tokens = features.by_block["a"].clone().requires_grad_()
    ReferenceFeatures({"a": tokens}).mask_tokens(0.3, [1, 2, 3]).by_block["a"].sum().backward()
    assert tokens.grad is not None
    assert tokens.grad.sum().item() == 3 * 7 * 4


def test_ratio_zero_masks_nothing(features):
    assert features.mask_tokens(0.0, [1, 2, 3]) is features


def test_selection_follows_presence(features):
    chosen = features.with_presence(torch.tensor([True, False, True])).select([1, 1, 0])
    assert chosen.present_B is not None
    assert chosen.present_B.tolist() == [False, False, True]
    assert torch.equal(chosen.by_block["b"][0], features.by_block["b"][1])


def test_invalid_arguments_are_refused(features):
    with pytest.raises(ValueError, match="ratio"):
        features.mask_tokens(1.0, [1, 2, 3])
    with pytest.raises(ValueError, match="2 seeds for 3"):
        features.mask_tokens(0.3, [1, 2])
    with pytest.raises(ValueError, match="presence"):
        features.with_presence(torch.ones(2, dtype=torch.bool))
    with pytest.raises(ValueError, match="presence"):
        features.with_presence(torch.ones(3))
