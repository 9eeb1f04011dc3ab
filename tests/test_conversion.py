"""Whitening put into networks in place of BatchNorm, folded into convolutions, and exported to ONNX."""

import copy
import io
import warnings
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

import eigengrad as eg
from eigengrad_lab.models import BasicBlock, ResNet


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


def small_resnet(extra: nn.Module) -> ResNet:
    torch.manual_seed(0)
    return ResNet(BasicBlock, widths=(8, 16), depths=(1, 1), extra=extra, inputs=3, classes=10)


def test_convert_keeps_what_was_learned() -> None:
    """Every layer, a whole network: evaluation is unchanged, and training goes on."""
    network, images = small_resnet(nn.BatchNorm2d(64)), draw(4, 3, 8, 8)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    network(images)
    expected = network.eval()(images)
    converted = eg.nn.convert(copy.deepcopy(network), group_size=8)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in converted.modules())
    torch.testing.assert_close(converted(images), expected, rtol=1e-4, atol=1e-4)
    assert not any(module.training for module in converted.modules())
    converted.train()(images).sum().backward()
    assert all(parameter.grad is not None for parameter in converted.parameters())


def test_convert_chooses() -> None:
    network = eg.nn.convert(
        small_resnet(nn.BatchNorm2d(64)), lambda name, layer: name == "stem.1", gradient=eg.Taylor()
    )
    kinds = [type(module) for module in network.modules()]
    assert kinds.count(eg.nn.ZCAWhitening) == 1
    assert kinds.count(nn.BatchNorm2d) == 6
    assert network.stem[1].gradient == eg.Taylor()
    assert network.stem[1].group_size == 64


def test_convert_carries_every_setting() -> None:
    old = nn.BatchNorm1d(6, eps=0.01, momentum=None, affine=True, dtype=torch.float64)
    old.bias = None  # torch 2.11 has no argument for it
    nn.init.uniform_(old.weight)
    old.weight.requires_grad_(False)
    old(draw(9, 6).double())
    new = eg.nn.convert(old.eval(), group_size=16)
    assert isinstance(new, eg.nn.ZCAWhitening)
    assert (new.eps, new.momentum, new.group_size, new.training) == (0.01, None, 6, False)
    assert new.weight is not None
    assert not new.weight.requires_grad
    assert new.bias is None
    assert new.num_batches_tracked == 1
    torch.testing.assert_close(new(draw(5, 6).double()), old(draw(5, 6).double()))
    bare = eg.nn.convert(nn.BatchNorm3d(6, affine=False, track_running_stats=False))
    assert not list(bare.parameters())
    assert not list(bare.buffers())
    assert eg.nn.convert(nn.BatchNorm2d(6), eps=0.1).eps == 0.1
    assert eg.nn.convert(nn.SyncBatchNorm(6)).process_group == "all"


def test_convert_shared_layers() -> None:
    """A layer in two places stays one layer in two places."""
    shared = nn.BatchNorm1d(4)
    network = eg.nn.convert(nn.Sequential(shared, nn.ReLU(), shared))
    assert network[0] is network[2]
    assert isinstance(network[0], eg.nn.ZCAWhitening)


class NormAct(nn.BatchNorm2d):
    """Normalisation and activation in one, as model zoos have it."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.act = nn.Hardswish()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(super().forward(x))


class Renamed(nn.BatchNorm2d):
    """A subclass whose forward is its base's."""


def mobile(channels: int) -> nn.Module:
    """An inverted residual's body: expansion, depthwise convolution, projection."""
    return nn.Sequential(
        nn.Conv2d(channels, 4 * channels, 1, bias=False),
        NormAct(4 * channels),
        nn.Conv2d(4 * channels, 4 * channels, 3, padding=1, groups=4 * channels, bias=False),
        NormAct(4 * channels),
        nn.Conv2d(4 * channels, channels, 1, bias=False),
        Renamed(channels, eps=1e-3),
    )


def varied(network: nn.Module, x: Tensor) -> nn.Module:
    """With statistics and parameters of its own, channels of very different variances and a dead one among them."""
    generator = torch.Generator().manual_seed(2)
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
            nn.init.normal_(module.bias, generator=generator)
        if isinstance(module, nn.Conv2d):
            with torch.no_grad():
                module.weight[::3] *= 1e-2
                module.weight[-1] = 0.0
    for _ in range(20):
        network(x)
    return network.eval()


@pytest.mark.parametrize("layer", ["zca", "pca"])
def test_convert_a_model_of_a_zoo(layer: str) -> None:
    """Classes with a forward of their own are left alone and named, or follow a rule; evaluation stays what it was."""
    network, x = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), mobile(8), mobile(8)), draw(8, 3, 9, 9)
    expected = varied(network, x)(x)
    options = {"energy": 1.0} if layer == "pca" else {"group_size": 4}
    with pytest.warns(UserWarning, match=r"not converted: 2\.1 \(NormAct\), 2\.3 \(NormAct\), 3\.1 .*rules="):
        converted = eg.nn.convert(copy.deepcopy(network), layer=layer, **options)
    assert sum(isinstance(m, NormAct) for m in converted.modules()) == 4
    assert sum(isinstance(m, eg.nn.ZCAWhitening | eg.nn.PCADenoising) for m in converted.modules()) == 3
    torch.testing.assert_close(converted(x), expected, rtol=1e-4, atol=1e-4)
    rules = {NormAct: lambda old, new: nn.Sequential(new, old.act)}
    converted = eg.nn.convert(copy.deepcopy(network), layer=layer, rules=rules, **options)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in converted.modules())
    torch.testing.assert_close(converted(x), expected, rtol=1e-4, atol=1e-4)
    assert not any(m.training for m in converted.modules())


def test_convert_keeps_objects_hooks_and_flags() -> None:
    """Tied weights stay tied, optimisers keep their parameters, and handles of hooks still remove them."""
    first, second = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
    second.weight = first.weight
    calls: list[str] = []
    handle = first.register_forward_hook(lambda *_: calls.append("forward"))
    first.register_full_backward_hook(lambda *_: calls.append("backward"))
    network, weight = nn.Sequential(first, second), first.weight
    network[1].eval()
    converted = eg.nn.convert(network)
    assert converted[0].weight is weight
    assert converted[1].weight is weight
    assert [m.training for m in converted] == [True, False]
    x = draw(9, 4, 3, 3).requires_grad_()
    converted(x).sum().backward()
    assert calls == ["forward", "backward"]
    handle.remove()
    converted(x)
    assert calls == ["forward", "backward"]


def test_convert_frozen_and_uncounted_statistics() -> None:
    norm = nn.BatchNorm2d(4)
    norm(3 * draw(9, 4, 3, 3))
    x = draw(5, 4, 3, 3)
    frozen = copy.deepcopy(norm)
    frozen.track_running_stats = False
    for training in (True, False):
        new = eg.nn.convert(copy.deepcopy(frozen).train(training), group_size=1)
        torch.testing.assert_close(new(x), frozen.train(training)(x))
        torch.testing.assert_close(new.running_mean, frozen.running_mean)
    norm.num_batches_tracked = None
    new = eg.nn.convert(copy.deepcopy(norm))
    assert new.num_batches_tracked is None
    torch.testing.assert_close(copy.deepcopy(new).eval()(x), copy.deepcopy(norm).eval()(x))
    new(x), norm(x)
    torch.testing.assert_close(new.running_mean, norm.running_mean)
    assert eg.nn.convert(nn.BatchNorm2d(4, eps=0.0)).eps == 0.0


def test_convert_leaves_computed_weights_alone() -> None:
    norm = prune.l1_unstructured(nn.BatchNorm2d(4), "weight", 0.5)
    with pytest.warns(UserWarning, match="not converted: the model"):
        assert eg.nn.convert(norm) is norm


def test_convert_errors() -> None:
    with pytest.raises(ValueError, match="no batch normalisation layer was chosen"):
        eg.nn.convert(nn.Sequential(nn.Linear(3, 3)))
    with pytest.raises(ValueError, match="no batch normalisation layer was chosen"):
        eg.nn.convert(nn.Sequential(nn.BatchNorm1d(3)), lambda name, layer: False)
    with pytest.raises(ValueError, match="0 is lazy"):
        eg.nn.convert(nn.Sequential(nn.LazyBatchNorm1d()))


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


def test_fold_errors() -> None:
    layer, linear = eg.nn.ZCAWhitening(4), nn.Linear(3, 4)
    with pytest.raises(TypeError, match=r"layer must be a layer of eigengrad\.nn, got BatchNorm1d"):
        eg.nn.fold(nn.BatchNorm1d(4), linear)
    with pytest.raises(TypeError, match="linear must be a Linear, Conv or ConvTranspose, got Bilinear"):
        eg.nn.fold(layer, nn.Bilinear(3, 3, 4))
    with pytest.raises(ValueError, match="linear has 5 outputs, but layer has 4 channels"):
        eg.nn.fold(layer, nn.Linear(3, 5))
    with pytest.raises(TypeError, match="forward of Standardized does something else with its weight"):
        eg.nn.fold(layer, Standardized(3, 4, 3))
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
    with pytest.warns(UserWarning, match=r"not folded: 1\.first \(nothing that can take it in"):
        folded = eg.nn.fold(model)
    torch.testing.assert_close(folded(x), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model(x), expected, rtol=0, atol=0)
    left = [name for name, m in folded.named_modules() if isinstance(m, (eg.nn.ZCAWhitening, eg.nn.PCADenoising))]
    assert left == ["1.first"]


def test_tracers() -> None:
    """Of an evaluation network: TorchScript, its ONNX exporter, torch.fx; none of them meets a decomposition."""
    for layer in (eg.nn.ZCAWhitening(8, group_size=3), eg.nn.PCADenoising(8, rank=3)):
        network = nn.Sequential(nn.Conv2d(3, 8, 3), layer, nn.ReLU())
        network(draw(30, 3, 6, 6))
        x, other = draw(2, 3, 6, 6), draw(5, 3, 6, 6, seed=1)
        expected = network.eval()(other)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            traced = torch.jit.trace(network, x)
            file = io.BytesIO()
            torch.onnx.export(network, (x,), file, dynamo=False, input_names=["x"], dynamic_axes={"x": {0: "batch"}})
        assert "eigengrad::" not in str(traced.inlined_graph)
        assert "linalg" not in str(traced.inlined_graph)
        torch.testing.assert_close(traced(other), expected, rtol=1e-5, atol=1e-5)
        session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
        np.testing.assert_allclose(session.run(None, {"x": other.numpy()})[0], expected.detach(), rtol=1e-4, atol=1e-5)
        graph = torch.fx.symbolic_trace(network)
        assert [node.target for node in graph.graph.nodes if node.op == "call_module"] == ["0", "1", "2"]
        torch.testing.assert_close(graph(other), expected)


@pytest.mark.parametrize("training", [True, False])
def test_channels_last_survives_compilation(training: bool) -> None:
    for layer in (eg.nn.ZCAWhitening(8), eg.nn.ZCAWhitening(8, group_size=3), eg.nn.PCADenoising(8, rank=3)):
        torch._dynamo.reset()
        x = draw(6, 8, 5, 5).contiguous(memory_format=torch.channels_last)
        y = torch.compile(layer.train(training), backend="aot_eager", fullgraph=True)(x)
        assert y.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("fold", [True, False], ids=["folded", "as it is"])
def test_onnx(fold: bool, tmp_path: Path) -> None:
    """The evaluation network runs in onnxruntime with the same result, for any batch size, whitened or folded."""
    network = small_resnet(eg.nn.ZCAWhitening(64, group_size=24))
    network(draw(16, 3, 8, 8))
    expected_network = copy.deepcopy(network.eval())
    if fold:
        network.stem[0] = eg.nn.fold(network.stem[1], network.stem[0])
        network.stem[1] = nn.Identity()
        images = draw(2, 3, 8, 8)
        torch.testing.assert_close(network(images), expected_network(images), rtol=1e-5, atol=1e-5)
    batch = torch.export.Dim("batch")
    program = torch.onnx.export(network, (draw(2, 3, 8, 8),), dynamo=True, dynamic_shapes=({0: batch},), verbose=False)
    assert program is not None
    program.save(tmp_path / "network.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "network.onnx", providers=["CPUExecutionProvider"])
    for images in (draw(2, 3, 8, 8, seed=1), draw(5, 3, 8, 8, seed=2)):
        (actual,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
        np.testing.assert_allclose(actual, expected_network(images).detach(), rtol=1e-4, atol=1e-5)
