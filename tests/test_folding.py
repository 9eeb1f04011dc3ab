"""Layers folded into the convolution, or linear layer, before them."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

import eigengrad as eg


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) + 0.5


def trained(layer: eg.nn.ZCAWhitening | eg.nn.PCADenoising, *shape: int) -> nn.Module:
    """In evaluation, with parameters and running estimates of its own."""
    generator = torch.Generator().manual_seed(1)
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, 0.5, 1.5, generator=generator)
    mixing = torch.eye(shape[1]) + 0.3 * torch.randn(shape[1], shape[1], generator=generator)
    layer(torch.einsum("cd,nd...->nc...", mixing, draw(*shape)))
    return layer.eval()


class PaddedConv(nn.Conv2d):
    """Pads by itself, as model zoos' do."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(nn.functional.pad(x, (1, 2, 0, 1)))


LINEAR = {
    "linear": (lambda: nn.Linear(5, 12), (7, 5)),
    "without bias": (lambda: nn.Linear(5, 12, bias=False), (7, 5)),
    "1d": (lambda: nn.Conv1d(4, 12, 3, stride=2), (7, 4, 9)),
    "2d": (lambda: nn.Conv2d(4, 12, 3, padding=1, bias=False), (7, 4, 5, 5)),
    "3d": (lambda: nn.Conv3d(4, 12, 2), (7, 4, 3, 4, 5)),
    "grouped": (lambda: nn.Conv2d(4, 12, 3, groups=2, dilation=2), (7, 4, 7, 7)),
    "padded by reflection": (lambda: nn.Conv2d(4, 12, 3, padding=1, padding_mode="reflect"), (7, 4, 5, 5)),
    "transposed 1d": (lambda: nn.ConvTranspose1d(4, 12, 3, stride=2), (7, 4, 9)),
    "transposed 2d": (lambda: nn.ConvTranspose2d(4, 12, 3, stride=2, output_padding=1), (7, 4, 5, 5)),
    "transposed 3d, grouped": (lambda: nn.ConvTranspose3d(4, 12, 2, groups=2, bias=False), (7, 4, 3, 4, 5)),
    "a subclass that pads": (lambda: PaddedConv(4, 12, 3), (7, 4, 5, 5)),
    "pruned": (lambda: prune.l1_unstructured(nn.Conv2d(4, 12, 3), "weight", 0.5), (7, 4, 5, 5)),
    "parametrised": (lambda: parametrizations.weight_norm(nn.Conv2d(4, 12, 3)), (7, 4, 5, 5)),
    "channels-last": (lambda: nn.Conv2d(4, 12, 3).to(memory_format=torch.channels_last), (7, 4, 5, 5)),
}
LAYERS = {
    "whitening": lambda: eg.nn.ZCAWhitening(12),
    "groups": lambda: eg.nn.ZCAWhitening(12, group_size=3),
    "a smaller last group": lambda: eg.nn.ZCAWhitening(12, group_size=5),
    "no parameters": lambda: eg.nn.ZCAWhitening(12, group_size=3, affine=False),
    "denoising": lambda: eg.nn.PCADenoising(12, rank=4),
}


@pytest.mark.parametrize("kind", LINEAR)
@pytest.mark.parametrize("name", LAYERS)
def test_fold(name: str, kind: str) -> None:
    """One layer does what two did, and neither of them has changed."""
    torch.manual_seed(0)
    make, shape = LINEAR[kind]
    linear, x = make(), draw(*shape)
    layer = trained(LAYERS[name](), *linear(x).shape)
    before = copy.deepcopy(linear.state_dict())
    if "grouped" in kind and name not in ("groups", "no parameters"):
        with pytest.raises(ValueError, match=r"belong to several of the convolution's 2 groups"):
            eg.nn.fold(layer, linear)
        return
    folded = eg.nn.fold(layer, linear)
    assert type(folded) is type(linear) or kind == "parametrised"
    torch.testing.assert_close(folded(x), layer(linear(x)), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(linear.state_dict(), before, rtol=0, atol=0)
    assert folded.bias is not None
    assert folded.bias.requires_grad
    assert isinstance(folded.weight, nn.Parameter)
    if kind == "channels-last":
        assert folded.weight.is_contiguous(memory_format=torch.channels_last)


class Standardized(nn.Conv2d):
    """Weight standardisation: not linear in its weight."""

    def forward(self, x: Tensor) -> Tensor:
        weight = (self.weight - self.weight.mean()) / self.weight.std()
        return nn.functional.conv2d(x, weight, self.bias)


class Doubled(nn.Conv2d):
    """Linear in its weight and bias; but what is added to its bias is doubled, too."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def test_fold_errors() -> None:
    layer, linear = eg.nn.ZCAWhitening(4), nn.Linear(3, 4)
    with pytest.raises(TypeError, match=r"layer must be a layer of eigengrad\.nn, got BatchNorm1d"):
        eg.nn.fold(nn.BatchNorm1d(4), linear)
    with pytest.raises(TypeError, match="linear must be a Linear, Conv or ConvTranspose, got Bilinear"):
        eg.nn.fold(layer, nn.Bilinear(3, 3, 4))
    with pytest.raises(ValueError, match="linear has 5 outputs, but layer has 4 channels"):
        eg.nn.fold(layer, nn.Linear(3, 5))
    with pytest.raises(TypeError, match="forward of Standardized does more than to apply its weight"):
        eg.nn.fold(layer, Standardized(3, 4, 3))
    with pytest.raises(TypeError, match="forward of Doubled does more than to apply its weight"):
        eg.nn.fold(layer, Doubled(3, 4, 3))
    with pytest.raises(ValueError, match="channels in dim=-1, but those of Conv2d are in dim=1"):
        eg.nn.fold(eg.nn.ZCAWhitening(4, dim=-1), nn.Conv2d(3, 4, 1))
    for hooked in range(2):
        pair = eg.nn.ZCAWhitening(4), nn.Linear(3, 4)
        pair[hooked].register_forward_hook(lambda module, inputs, output: 2 * output)
        with pytest.raises(ValueError, match="there are hooks between linear and layer, or on layer"):
            eg.nn.fold(*pair)
    with pytest.raises(TypeError, match="remove_spectral_norm"):
        eg.nn.fold(layer, nn.utils.spectral_norm(nn.Linear(3, 4)))
    with pytest.raises(ValueError, match=r"model has no layer of eigengrad\.nn"):
        eg.nn.fold(nn.Sequential(linear))
    with pytest.raises(ValueError, match="nothing was folded: 1"):
        eg.nn.fold(nn.Sequential(nn.ReLU(), layer))
    with pytest.raises(ValueError, match="no running estimates"):
        eg.nn.fold(eg.nn.ZCAWhitening(4, track_running_stats=False), linear)


class Residual(nn.Module):
    """Its branch can be folded; what it adds may not change, nor may a convolution that two layers read."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), eg.nn.ZCAWhitening(8, group_size=4))
        self.shared = nn.Conv2d(8, 8, 1)
        self.first, self.second = eg.nn.ZCAWhitening(8), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.shared(x)
        return self.branch(x) + self.first(y) + self.second(y)


class Untraceable(nn.Module):
    """torch.fx cannot follow it, but its parts."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(3, 8, 3), eg.nn.ZCAWhitening(8), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) if x.sum() > 0 else self.inner(-x)


def test_fold_a_network() -> None:
    """Each layer that alone takes a convolution's output; the others stay, and are named. The model is not changed."""
    torch.manual_seed(0)
    model = nn.Sequential(Untraceable(), Residual(), nn.Flatten(), nn.Linear(128, 4), eg.nn.PCADenoising(4, rank=2))
    x = draw(40, 3, 6, 6)
    for _ in range(3):
        model(x)
    expected = model.eval()(x)
    with (
        pytest.warns(UserWarning, match=r"not folded: 1\.first \(nothing that can take it in"),
        pytest.warns(UserWarning, match=r"folded within 0\.inner, as if what torch\.fx cannot trace .* compare"),
    ):
        folded = eg.nn.fold(model)
    torch.testing.assert_close(folded(x), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model(x), expected, rtol=0, atol=0)
    left = [name for name, m in folded.named_modules() if isinstance(m, (eg.nn.ZCAWhitening, eg.nn.PCADenoising))]
    assert left == ["1.first"]


class Tied(nn.Module):
    """An autoencoder whose decoder is its encoder's weight, which must stay what it is."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.whiten, self.last = nn.Conv2d(3, 8, 3), eg.nn.ZCAWhitening(8), nn.Conv2d(3, 3, 1)
        self.head = eg.nn.ZCAWhitening(3)

    def forward(self, x: Tensor) -> Tensor:
        code = self.whiten(self.encode(x)).relu()
        return self.head(self.last(nn.functional.conv_transpose2d(code, self.encode.weight)))


def test_fold_leaves_a_weight_that_is_read_elsewhere() -> None:
    torch.manual_seed(0)
    model, x = Tied(), draw(8, 3, 6, 6)
    model(x)
    model.eval()
    with pytest.warns(UserWarning, match="not folded: whiten"):
        folded = eg.nn.fold(model)
    assert isinstance(folded.get_submodule("head"), nn.Identity)
    torch.testing.assert_close(folded(x), model(x), rtol=1e-4, atol=1e-4)
