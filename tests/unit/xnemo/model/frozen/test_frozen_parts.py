"""Autoencoders and image embeddings: exact where fixed, equal to their library where learned."""

import numpy as np
import pytest
import skimage.data
import torch
from diffusers import AutoencoderKL, AutoencoderKLTemporalDecoder, AutoencoderTiny
from PIL import Image
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from preprocessing.errors import UserError
from xnemo.model.frozen.autoencoder import AutoencoderConfig, make_autoencoder
from xnemo.model.frozen.image_embedding import ImageEmbeddingConfig, make_image_embedding

SMALL = {
    "block_out_channels": (8, 8, 8, 8),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "layers_per_block": 1,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Saved autoencoders of every learned kind and a CLIP tower, all of minute width."""
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("frozen")
    models = {
        "kl": AutoencoderKL(**SMALL, up_block_types=("UpDecoderBlock2D",) * 4, norm_num_groups=4),
        "tiny": AutoencoderTiny(
            encoder_block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4
        ),
        # Its decoder's group norms have 32 groups whatever the config says.
        "temporal": AutoencoderKLTemporalDecoder(
            **SMALL | {"block_out_channels": (32, 32, 32, 32)}
        ),
        "clip": CLIPVisionModelWithProjection(
            CLIPVisionConfig(
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=1,
                num_attention_heads=2,
                image_size=224,
                patch_size=56,
                projection_dim=12,
            )
        ),
    }
    for name, model in models.items():
        model.save_pretrained(root / name)
    return root, {name: model.eval() for name, model in models.items()}


def test_space_to_depth_is_orthonormal_and_exact():
    autoencoder = make_autoencoder(AutoencoderConfig("space_to_depth", path=None, factor=4))
    x = torch.rand(2, 3, 16, 16) * 2 - 1
    z = autoencoder.encode(x)
    assert z.shape == (2, 48, 4, 4)
    assert torch.equal(autoencoder.decode(z), x)
    assert float(z.square().sum()) == pytest.approx(4 * float(x.square().sum()), rel=1e-5)
    video = torch.rand(2, 3, 7, 16, 16)
    z_video = torch.stack([autoencoder.encode(f) for f in video.unbind(2)], dim=2)
    assert torch.equal(autoencoder.decode_video(z_video), video)


def test_space_to_depth_passes_gradient_on():
    autoencoder = make_autoencoder(AutoencoderConfig("space_to_depth", path=None, factor=2))
    x = torch.rand(1, 3, 4, 4, requires_grad=True)
    autoencoder.decode(autoencoder.encode(x)).sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x))


@pytest.mark.parametrize("kind", ["kl", "temporal"])
def test_encoding_takes_the_mean_and_scales_it(folders, kind):
    root, models = folders
    ours = make_autoencoder(AutoencoderConfig(kind, str(root / kind), scale=0.18215))
    x = torch.rand(1, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        expected = models[kind].encode(x).latent_dist.mean * 0.18215
    torch.testing.assert_close(ours.encode(x), expected)
    assert not ours.training
    ours.train()
    assert not ours.training
    assert not ours.model.training
    assert all(not p.requires_grad for p in ours.parameters())


def test_decoding_in_chunks_equals_decoding_each_frame(folders):
    root, models = folders
    ours = make_autoencoder(AutoencoderConfig("kl", str(root / "kl"), scale=0.5, decode_chunk=2))
    z = torch.randn(1, 4, 5, 4, 4)
    with torch.no_grad():
        expected = torch.stack([models["kl"].decode(f / 0.5).sample for f in z.unbind(2)], dim=2)
    torch.testing.assert_close(ours.decode_video(z), expected, rtol=1e-4, atol=1e-5)
    assert [c.shape[2] for c in ours.decode_chunks(z)] == [2, 2, 1]


def test_the_temporal_decoder_sees_a_chunk_as_one_clip(folders):
    root, models = folders
    config = AutoencoderConfig("temporal", str(root / "temporal"), scale=0.5, decode_chunk=3)
    z = torch.randn(1, 4, 5, 4, 4)
    decode = models["temporal"].decode
    with torch.no_grad():
        parts = [
            decode(z[0, :, a:b].transpose(0, 1) / 0.5, num_frames=b - a).sample
            for a, b in ((0, 3), (3, 5))
        ]
    expected = torch.cat(parts).transpose(0, 1)[None]
    torch.testing.assert_close(make_autoencoder(config).decode_video(z), expected)


def test_the_tiny_kind_round_trips_its_librarys_numbers(folders):
    root, models = folders
    ours = make_autoencoder(AutoencoderConfig("tiny", str(root / "tiny")))
    x = torch.rand(1, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        z = models["tiny"].encode(x).latents * models["tiny"].config.scaling_factor
    torch.testing.assert_close(ours.encode(x), z)


def test_an_autoencoder_in_half_precision_takes_and_gives_fp32(folders):
    root, _ = folders
    ours = make_autoencoder(AutoencoderConfig("kl", str(root / "kl"))).to(torch.bfloat16)
    assert ours.encode(torch.rand(1, 3, 32, 32)).dtype == torch.float32
    assert ours.decode(torch.rand(1, 4, 4, 4)).dtype == torch.float32


def test_an_encoder_that_overflows_in_fp16_runs_in_fp32(folders):
    root, models = folders
    autoencoder = make_autoencoder(AutoencoderConfig("kl", str(root / "kl"))).half()
    assert models["kl"].config.force_upcast
    exact = make_autoencoder(AutoencoderConfig("kl", str(root / "kl")))
    x = torch.rand(1, 3, 32, 32) * 2 - 1
    torch.testing.assert_close(autoencoder.encode(x), exact.encode(x), rtol=1e-2, atol=1e-2)
    # Features so large that fp16 has no number for them.
    with torch.no_grad():
        exact.model.encoder.conv_in.weight.sign_().mul_(5e4)
        autoencoder.model.encoder.conv_in.weight.copy_(exact.model.encoder.conv_in.weight)
    torch.testing.assert_close(autoencoder.encode(x), exact.encode(x), rtol=1e-2, atol=1e-2)
    assert all(p.dtype == torch.float16 for p in autoencoder.parameters())


def test_a_pipelines_folder_is_searched_for_its_vae(folders, tmp_path):
    _, models = folders
    models["kl"].save_pretrained(tmp_path / "vae")
    assert make_autoencoder(AutoencoderConfig("kl", str(tmp_path))).factor == 8


def test_clip_equals_its_library_processor(folders):
    root, models = folders
    token = make_image_embedding(ImageEmbeddingConfig("clip", str(root / "clip"), None, width=12))
    picture = np.random.default_rng(0).integers(0, 255, (224, 224, 3), dtype=np.uint8)
    processed = CLIPImageProcessorPil()(Image.fromarray(picture), return_tensors="pt").pixel_values
    with torch.no_grad():
        expected = models["clip"](processed).image_embeds
    x = torch.from_numpy(picture).permute(2, 0, 1)[None] / 127.5 - 1
    torch.testing.assert_close(token(x)[:, 0], expected, rtol=1e-4, atol=1e-5)


def test_resizing_for_clip_is_pils_bicubic():
    picture = skimage.data.astronaut()
    by_pil = np.asarray(Image.fromarray(picture).resize((224, 224), Image.Resampling.BICUBIC))
    x = torch.from_numpy(picture).permute(2, 0, 1)[None].float()
    ours = torch.nn.functional.interpolate(x, (224, 224), mode="bicubic", antialias=True)
    error = (ours.clamp(0, 255)[0].permute(1, 2, 0).numpy() - by_pil).astype(np.float32)
    # PIL rounds, and at hard edges clips, between its two passes.
    assert (np.abs(error) <= 1).mean() > 0.999
    assert np.abs(error).mean() < 0.3


def test_the_pooled_token_is_the_mean_colours():
    token = make_image_embedding(ImageEmbeddingConfig("pooled", None, None, width=14))
    x = torch.rand(2, 3, 8, 8)
    out = token(x)
    assert out.shape == (2, 1, 14)
    torch.testing.assert_close(out[1, 0, 0], x[1, 0, :4, :4].mean())
    assert torch.equal(out[..., 12:], torch.zeros(2, 1, 2))


@pytest.mark.parametrize("kind", ["kl", "tiny", "temporal"])
def test_missing_weights_are_reported_in_one_line(kind, tmp_path):
    with pytest.raises(UserError, match=r"autoencoder\.path = .*no such folder"):
        make_autoencoder(AutoencoderConfig(kind, str(tmp_path / "none")))
    with pytest.raises(UserError, match=r"holds no config\.json"):
        make_autoencoder(AutoencoderConfig(kind, str(tmp_path)))


def test_an_unreachable_hub_is_reported_in_one_line():
    with pytest.raises(UserError, match="hub could not be reached"):
        make_autoencoder(AutoencoderConfig("kl", "nobody/nothing"))


def test_a_folder_of_another_model_is_refused(folders, tmp_path):
    root, _ = folders
    with pytest.raises(UserError, match=r"image_embedding\.width = 768"):
        make_image_embedding(ImageEmbeddingConfig("clip", str(root / "clip"), None))
    folder = tmp_path / "damaged"
    folder.mkdir()
    (folder / "config.json").write_text("{")
    with pytest.raises(UserError, match="does not load as AutoencoderKL"):
        make_autoencoder(AutoencoderConfig("kl", str(folder)))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (lambda: AutoencoderConfig("kl", path=None), "path is empty"),
        (lambda: AutoencoderConfig("kl", factor=4), "factor = 4"),
        (lambda: AutoencoderConfig("vq"), "'vq' is unknown"),  # type: ignore[arg-type]
        (lambda: ImageEmbeddingConfig("clip", path=None), "path is empty"),
        (lambda: ImageEmbeddingConfig("pooled", width=2), "width = 2"),
    ],
)
def test_contradictions_are_refused(config, message):
    with pytest.raises(UserError, match=message):
        config()
