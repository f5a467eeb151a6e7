import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from preprocessing.errors import UserError
from xnemo.model.frozen.perceptual import STAGES, PerceptualConfig, PerceptualLoss


def torchvision_layers(network):
    """The `features` of torchvision's network as a plain sequence, from its published recipe."""
    layers, previous = [], 3
    for convs, width in zip(STAGES[network], (64, 128, 256, 512, 512), strict=True):
        for _ in range(convs):
            layers += [nn.Conv2d(previous, width, 3, padding=1), nn.ReLU()]
            previous = width
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A file as torchvision publishes it, with random numbers: all layers and a classifier."""
    torch.manual_seed(0)
    layers = torchvision_layers("vgg16")
    state = {f"features.{k}": v for k, v in layers.state_dict().items()}
    state["classifier.0.weight"] = torch.zeros(4, 4)
    path = tmp_path_factory.mktemp("vgg") / "vgg16.pth"
    torch.save(state, path)
    return layers, path


def test_features_are_the_published_networks(published):
    layers, path = published
    loss = PerceptualLoss(PerceptualConfig("vgg16", str(path)))
    x = torch.rand(1, 3, 32, 32) * 2 - 1
    normalised = ((x + 1) / 2 - loss.mean) / loss.std
    with torch.no_grad():
        for tap, ours in zip((1, 6, 11, 18, 25), loss.vgg(normalised), strict=True):
            torch.testing.assert_close(ours, layers[: tap + 1](normalised))


def test_gradient_flows_to_the_first_image_only():
    loss = PerceptualLoss(PerceptualConfig("vgg16", "random"))
    image, target = (torch.rand(1, 3, 32, 32, requires_grad=True) for _ in range(2))
    loss(image, target).backward()
    assert image.grad.abs().sum() > 0
    assert target.grad is None
    assert all(p.grad is None for p in loss.parameters())
    with torch.no_grad():
        assert loss(image, image) == 0


def test_random_weights_are_the_same_everywhere():
    x, y = torch.rand(1, 3, 32, 32), torch.rand(1, 3, 32, 32)
    torch.manual_seed(1)
    first = PerceptualLoss(PerceptualConfig("vgg16", "random"))(x, y)
    torch.manual_seed(2)
    assert PerceptualLoss(PerceptualConfig("vgg16", "random"))(x, y) == first


def test_a_loss_without_weights_is_refused_with_the_command_that_gets_them():
    with pytest.raises(UserError, match=r"curl -LO https://\S+/vgg19-dcbb9e9d.pth .*loss.percep"):
        PerceptualLoss(PerceptualConfig())


def test_wrong_files_are_reported(published, tmp_path):
    _, path = published
    with pytest.raises(UserError, match="no such file"):
        PerceptualLoss(PerceptualConfig("vgg16", str(tmp_path / "none.pth")))
    with pytest.raises(UserError, match="is not vgg19"):
        PerceptualLoss(PerceptualConfig("vgg19", str(path)))
    (tmp_path / "text.pth").write_text("not a checkpoint")
    with pytest.raises(UserError, match="not a file of tensors"):
        PerceptualLoss(PerceptualConfig("vgg16", str(tmp_path / "text.pth")))
    save_file({"features.0.weight": torch.zeros(1)}, tmp_path / "bad.safetensors")
    with pytest.raises(UserError, match=r"features\.0\.weight is missing or of another shape"):
        PerceptualLoss(PerceptualConfig("vgg16", str(tmp_path / "bad.safetensors")))


def test_a_pickle_with_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("executed",))

    torch.save({"features.0.weight": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(UserError, match="not a file of tensors"):
        PerceptualLoss(PerceptualConfig("vgg16", str(tmp_path / "evil.pth")))
