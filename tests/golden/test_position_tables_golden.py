"""The fixed position tables equal the authors' at every sampled place."""

import json

import torch

from xnemo.model.layers.position_embeddings import frame_table, patch_table
from xnemo.model.motion.encoder import MotionEncoder


def test_token_and_patch_positions(official_dir):
    misc = json.loads((official_dir / "misc.json").read_text())
    encoder = MotionEncoder(stem_width=16)
    for row, values in misc["token_pe_rows"].items():
        torch.testing.assert_close(encoder.pe[0, int(row)], torch.tensor(values), rtol=0, atol=2e-7)
    table = patch_table(28, 1024)
    for place, expected in misc["patch_pe_samples"].items():
        token, column = map(int, place.split(","))
        assert abs(table[token, column].item() - expected) < 2e-7
    torch.testing.assert_close(encoder.model.att_2.positions[0], table)


def test_frame_positions_alternate_sine_and_cosine():
    table = frame_table(32, 320)
    frame, pair = 7, 3
    angle = torch.tensor(7.0, dtype=torch.float64) * 10000 ** (-2 * pair / 320)
    assert table.shape == (32, 320)
    assert abs(table[frame, 2 * pair].item() - angle.sin().item()) < 1e-7
    assert abs(table[frame, 2 * pair + 1].item() - angle.cos().item()) < 1e-7


def test_tables_are_there_even_on_the_meta_device():
    with torch.device("meta"):
        encoder = MotionEncoder()
    assert not encoder.pe.is_meta
    assert not encoder.model.att_1.positions.is_meta
