"""Picture measures equal their definitions and scikit-image's."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from preprocessing.errors import UserError
from xnemo.evaluation.image_metrics import l1, mean_finite, psnr, ssim
from xnemo.evaluation.lpips import Lpips, load_lpips


@pytest.fixture(scope="module")
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    a = torch.rand(3, 3, 24, 31, generator=generator) * 2 - 1
    return a, (a + 0.3 * torch.randn(a.shape, generator=generator)).clamp(-1, 1)


def test_ssim_and_psnr_equal_scikit_image(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    a, b = pair
    for number in range(len(a)):
        x, y = ((t[number].permute(1, 2, 0).double().numpy() + 1) / 2 for t in (a, b))
        wanted = structural_similarity(
            x,
            y,
            gaussian_weights=True,
            use_sample_covariance=False,
            data_range=1.0,
            channel_axis=2,
        )
        assert float(ssim(a, b)[number]) == pytest.approx(wanted, abs=1e-5)
        wanted = peak_signal_noise_ratio(x, y, data_range=1.0)
        assert float(psnr(a, b)[number]) == pytest.approx(wanted, abs=1e-4)


def test_equal_pictures_and_opposite_ones() -> None:
    white, black = torch.ones(1, 3, 16, 16), -torch.ones(1, 3, 16, 16)
    assert float(l1(white, black)) == 1
    assert float(l1(white, white)) == 0
    assert float(ssim(white, white)) == pytest.approx(1)
    assert torch.isinf(psnr(white, white)).all()
    assert np.isnan(mean_finite(psnr(white, white)))


def test_pictures_below_the_window_are_refused() -> None:
    with pytest.raises(ValueError, match="smaller than"):
        ssim(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8))


def random_lpips() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    g = torch.Generator().manual_seed(1)
    shapes = {
        0: (64, 3, 11),
        3: (192, 64, 5),
        6: (384, 192, 3),
        8: (256, 384, 3),
        10: (256, 256, 3),
    }
    features, heads = {}, {}
    for level, (number, (outside, inside, kernel)) in enumerate(shapes.items()):
        weight = torch.randn(outside, inside, kernel, kernel, generator=g) * 0.05
        features[f"features.{number}.weight"] = weight
        features[f"features.{number}.bias"] = torch.randn(outside, generator=g) * 0.05
        heads[f"lin{level}.model.1.weight"] = torch.rand(1, outside, 1, 1, generator=g)
    return features, heads


def test_lpips_equals_its_definition_written_out(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    features, heads = random_lpips()
    a, b = (F.interpolate(x, (64, 64)) for x in pair)

    def levels(x: torch.Tensor) -> list[torch.Tensor]:
        x = (x - torch.tensor([-0.030, -0.088, -0.188]).view(3, 1, 1)) / torch.tensor(
            [0.458, 0.448, 0.450]
        ).view(3, 1, 1)
        f = features
        one = F.conv2d(x, f["features.0.weight"], f["features.0.bias"], 4, 2).relu()
        two = F.max_pool2d(one, 3, 2)
        two = F.conv2d(two, f["features.3.weight"], f["features.3.bias"], 1, 2).relu()
        three = F.max_pool2d(two, 3, 2)
        three = F.conv2d(three, f["features.6.weight"], f["features.6.bias"], 1, 1).relu()
        four = F.conv2d(three, f["features.8.weight"], f["features.8.bias"], 1, 1).relu()
        five = F.conv2d(four, f["features.10.weight"], f["features.10.bias"], 1, 1).relu()
        return [F.normalize(y, dim=1) for y in (one, two, three, four, five)]

    wanted = sum(
        (heads[f"lin{n}.model.1.weight"] * (x - y) ** 2).sum(1).mean((1, 2))
        for n, (x, y) in enumerate(zip(levels(a), levels(b), strict=True))
    )
    torch.testing.assert_close(Lpips(features, heads)(a, b), wanted, rtol=1e-4, atol=1e-6)


def test_lpips_loads_from_files_and_refuses_others(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"lpips_alexnet_features.pth is missing"):
        load_lpips(tmp_path)
    features, heads = random_lpips()
    torch.save(features, tmp_path / "lpips_alexnet_features.pth")
    torch.save(heads, tmp_path / "lpips_lin_alex_v0.1.pth")
    picture = torch.rand(1, 3, 64, 64)
    assert float(load_lpips(tmp_path)(picture, picture)) == 0
    torch.save(heads, tmp_path / "lpips_alexnet_features.pth")
    with pytest.raises(UserError, match="other networks"):
        load_lpips(tmp_path)
    (tmp_path / "lpips_lin_alex_v0.1.pth").write_bytes(b"no tensors")
    with pytest.raises(UserError, match="not a file of tensors"):
        load_lpips(tmp_path)


@pytest.mark.assets
def test_published_lpips_orders_distortions(assets_dir: Path) -> None:
    import skimage.data

    measure = load_lpips(assets_dir / "weights")
    face = torch.from_numpy(skimage.data.astronaut()[40:168, 160:288].copy())
    x = face.permute(2, 0, 1)[None].float() / 127.5 - 1
    blurred = F.avg_pool2d(x, 5, 1, 2)
    noisy = (x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))).clamp(
        -1, 1
    )
    other = x.flip(-1)
    slight, strong = float(measure(x, noisy)), float(measure(x, other))
    assert 0 < slight < strong
    assert 0.05 < float(measure(x, blurred)) < 0.9
