"""PyTorch's expectations of a module, row by row: the second half of the table in ``test_batchnorm_contract.py``."""

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from layers import IMAGES, C, Make, batch_norm, denoising_by_energy, draw, every_layer, trained
from torch import Tensor, nn

import eigengrad as eg


@every_layer
def test_copies(make: Make) -> None:
    """state_dict, deepcopy, pickle and torch.save: the copy does what the original does, and shares nothing."""
    layer, x = trained(make), draw(*IMAGES)
    loaded = make()
    assert not loaded.load_state_dict(layer.state_dict()).missing_keys
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    copies = [loaded, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), torch.load(file, weights_only=False)]
    expected = layer.eval()(x)
    for other in copies:
        torch.testing.assert_close(other.eval()(x), expected, rtol=0, atol=0)
        assert repr(other) == repr(layer)
        other.train()(x)
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=0)


@every_layer
def test_meta_device(make: Make) -> None:
    """Made without memory, given some, reset: as new. And shapes can be computed without data."""
    layer = make(device="meta")
    for training in (True, False):
        assert layer.train(training)(torch.empty(IMAGES, device="meta")).shape == IMAGES
    layer = layer.train().to_empty(device="cpu")
    layer.reset_parameters()
    x = draw(*IMAGES)
    torch.testing.assert_close(layer(x), make()(x), rtol=0, atol=0)
    torch.testing.assert_close(layer.state_dict(), make_after(make, x), rtol=0, atol=0)


def make_after(make: Make, x: Tensor) -> dict[str, Tensor]:
    layer = make()
    layer(x)
    return layer.state_dict()


@every_layer
def test_factory_arguments_and_conversion(make: Make) -> None:
    layer = make(dtype=torch.float64)
    assert {t.dtype for t in layer.state_dict().values()} == {torch.float64, torch.long}
    assert layer(draw(*IMAGES, dtype=torch.float64)).dtype == torch.float64
    assert {t.dtype for t in layer.float().state_dict().values()} == {torch.float32, torch.long}


@every_layer
def test_repr(make: Make) -> None:
    shown = repr(make(momentum=None, affine=False, track_running_stats=False))
    for text in (f"({C}, eps=0.0001, momentum=None, affine=False, ", "track_running_stats=False"):
        assert text in shown
    assert make is batch_norm or "bias=False, " in shown  # torch 2.11 does not show it


@every_layer
def test_one_value_per_channel(make: Make) -> None:
    """No moments in training, unless told to skip; evaluation needs none."""
    x = draw(1, C, 1, 1)
    assert make().eval()(x).shape == x.shape
    if make is denoising_by_energy:
        torch.testing.assert_close(make()(x), x)
        return
    with pytest.raises(ValueError, match=r"more than (1|one) value"):
        make()(x)


@every_layer
def test_wrong_number_of_channels(make: Make) -> None:
    for layer in (make(), make().eval()):
        with pytest.raises((ValueError, RuntimeError)):
            layer(draw(8, C + 1, 4, 3))


@every_layer
def test_sync_conversion_leaves_other_layers_alone(make: Make) -> None:
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(make()))[0]
    assert isinstance(converted, nn.SyncBatchNorm) == (make is batch_norm)


@every_layer
def test_vmap_without_statistics(make: Make) -> None:
    """An ensemble of batches, and gradients for each."""
    layer = make(track_running_stats=False)
    x = torch.stack([draw(*IMAGES, seed=seed) for seed in range(3)])
    expected = torch.stack([layer(batch) for batch in x])
    torch.testing.assert_close(torch.func.vmap(layer, randomness="error")(x), expected, rtol=1e-4, atol=1e-4)

    def loss(x: Tensor) -> Tensor:
        return (layer(x) ** 3).sum()

    expected = torch.stack([torch.func.grad(loss)(batch) for batch in x])
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(loss))(x), expected, rtol=1e-3, atol=1e-3)


@every_layer
@pytest.mark.parametrize("training", [True, False])
def test_compile_network(make: Make, training: bool) -> None:
    """One graph; outputs, gradients and running estimates as in eager."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, C, 3), trained(make), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))
    x = torch.rand(8, 3, 6, 6)
    network.eval()(x)
    twin = copy.deepcopy(network.train(training))
    compiled = torch.compile(twin, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), network(x), rtol=1e-4, atol=1e-4)
    (compiled(x) ** 2).sum().backward()
    (network(x) ** 2).sum().backward()
    for actual, expected in zip(twin.parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(actual.grad, expected.grad, rtol=1e-3, atol=1e-3)
    for name, buffer in network.named_buffers():
        torch.testing.assert_close(twin.get_buffer(name), buffer, rtol=1e-4, atol=1e-4)


@every_layer
def test_export(make: Make) -> None:
    """The evaluation network with a free batch size, and no decomposition in it."""
    network, x = nn.Sequential(nn.Conv2d(3, C, 3), trained(make), nn.ReLU()).eval(), torch.rand(4, 3, 6, 6)
    program = torch.export.export(network, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    assert not any("linalg" in str(node.target) for node in program.graph.nodes)
    for batch in (x, torch.rand(7, 3, 6, 6)):
        torch.testing.assert_close(program.module()(batch), network(batch), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_features": 4.0}, r"num_features must be an int of at least 1, got 4\.0"),
        ({"num_features": 0}, "num_features must be an int of at least 1, got 0"),
        ({"eps": None}, "eps must be a number, got None"),
        ({"momentum": "x"}, "momentum must be a number, got 'x'"),
        ({"dtype": torch.complex64}, "dtype must be real and floating point"),
        ({"gradient": "exact"}, "gradient must be a rule such as .* got 'exact'"),
        ({"gradient": eg.Exact}, "gradient must be a rule such as .* got <class"),
        ({"solver": "lanczos"}, "solver"),
    ],
)
@pytest.mark.parametrize(
    "kind", [eg.nn.ZCAWhitening, lambda *args, **kwargs: eg.nn.PCADenoising(*args, rank=1, **kwargs)]
)
def test_arguments_are_looked_at_when_a_layer_is_made(kind: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        kind(**{"num_features": 4} | arguments)


def test_group_size_is_an_int() -> None:
    with pytest.raises(TypeError, match=r"group_size must be an int, got 2\.0 of type float"):
        eg.nn.ZCAWhitening(4, group_size=2.0)  # type: ignore[arg-type]


def test_vmap_of_training_says_what_it_cannot_do() -> None:
    x = torch.randn(2, 9, 3)
    with pytest.raises(RuntimeError, match="vmap maps over batches, but not over the running estimates"):
        torch.func.vmap(eg.nn.ZCAWhitening(3))(x)
    alone = eg.nn.ZCAWhitening(3, track_running_stats=False)
    torch.testing.assert_close(torch.func.vmap(alone)(x), torch.stack([alone(part) for part in x]))
