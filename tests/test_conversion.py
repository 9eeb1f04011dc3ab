"""Whitening put into networks in place of BatchNorm, and exported to ONNX."""

import copy
import io
import warnings
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

import eigengrad as eg
from eigengrad_lab.models import BasicBlock, ResNet


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) + 0.5


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


@pytest.mark.parametrize("method", ["zca", "cholesky"])
def test_convert_variances_far_apart(method: str) -> None:
    """A share of their mean would leave nothing of the smallest in float32: no relative eps then, and a warning."""
    x = draw(16, 6)
    for variances, kept in (([1e-3, 1.0, 2.0, 3.0, 5.0, 0.0], True), ([1e-8, 1e-3, 1.0, 1e3, 1e6, 0.0], False)):
        norm = nn.BatchNorm1d(6).eval()
        assert norm.running_var is not None
        norm.running_var.copy_(torch.tensor(variances))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            layer = eg.nn.convert(nn.Sequential(norm), method=method)[0]
        assert isinstance(layer, eg.nn.ZCAWhitening)
        assert (layer.relative_eps > 0) == kept == (not caught)
        assert all("0: running variances" in str(w.message) and w.filename == __file__ for w in caught)
        data = x * norm.running_var.sqrt()
        torch.testing.assert_close(layer(data), norm(data), rtol=1e-5, atol=1e-5)


def test_convert_without_an_offset() -> None:
    norm = nn.BatchNorm1d(3)
    layer = eg.nn.convert(norm, bias=False)
    assert layer.bias is None
    assert layer.weight is norm.weight


def test_convert_errors() -> None:
    with pytest.raises(ValueError, match="no batch normalisation layer was chosen"):
        eg.nn.convert(nn.Sequential(nn.Linear(3, 3)))
    with pytest.raises(ValueError, match="no batch normalisation layer was chosen"):
        eg.nn.convert(nn.Sequential(nn.BatchNorm1d(3)), lambda name, layer: False)
    with pytest.raises(ValueError, match="0 is lazy"):
        eg.nn.convert(nn.Sequential(nn.LazyBatchNorm1d()))


def test_tracers() -> None:
    """Of an evaluation network: TorchScript, its ONNX exporter, torch.fx; none of them meets a decomposition."""
    kinds = eg.nn.ZCAWhitening(8, group_size=3), eg.nn.PCADenoising(8, rank=3), eg.nn.ZCAWhitening(8, dim=-3)
    for layer in kinds:
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


@pytest.mark.parametrize("kwargs", [{}, {"track_running_stats": False}, {"momentum": None}, {"errors": "skip"}])
def test_an_exported_program_of_training_is_saved_and_loaded(kwargs: dict[str, object]) -> None:
    layer, x = eg.nn.ZCAWhitening(6, **kwargs), draw(16, 6, 3, 3)  # type: ignore[arg-type]
    file = io.BytesIO()
    torch.export.save(torch.export.export(copy.deepcopy(layer), (x,)), file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    for _ in range(2):
        torch.testing.assert_close(loaded(x), layer(x))
    torch.testing.assert_close(dict(loaded.named_buffers()), dict(layer.named_buffers()))


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
