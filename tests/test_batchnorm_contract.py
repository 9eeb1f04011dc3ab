"""PyTorch's expectations of a normalisation layer, row by row: each one is run on ``nn.BatchNorm`` itself as well.

Different, and why:

* A wrong number of channels is a ``ValueError`` here, a ``RuntimeError`` there: users' mistakes are ``ValueError``.
* ``(N, C, *)`` with any number of positions goes into one class; BatchNorm has one for each number of dimensions.
* Running covariances are biased, as the batch's are, where BatchNorm's running variance is not: what is averaged is
  what was applied.
* An empty batch leaves the running estimates as they are; BatchNorm makes NaN of them.
* NaN raises, or skips the group (``errors``); BatchNorm passes NaN on into its running estimates.
* Whitening under ``torch.func.vmap`` needs ``track_running_stats=False``, as BatchNorm does: buffers change in place.
"""

import copy
import inspect
import io
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import eigengrad as eg

C = 6
SHAPES = [(12, C), (12, C, 5), (8, C, 4, 3), (4, C, 3, 2, 2)]
IMAGES = (8, C, 4, 3)
Make = Callable[..., nn.Module]


def batch_norm(dimensions: int = 4, **options: object) -> nn.Module:
    if "bias" in options and "bias" not in inspect.signature(nn.BatchNorm2d).parameters:
        pytest.skip(f"BatchNorm has no argument bias in torch {torch.__version__}")
    kind = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}[dimensions]
    return kind(C, **{"eps": 1e-4} | options)  # type: ignore[arg-type]


def whitening_with_one_left(dimensions: int = 4, **options: object) -> nn.Module:
    return eg.nn.ZCAWhitening(C, group_size=5, **options)  # type: ignore[arg-type]


def whitening(dimensions: int = 4, **options: object) -> nn.Module:
    return eg.nn.ZCAWhitening(C, group_size=4, **options)  # type: ignore[arg-type]


def paper_whitening(dimensions: int = 4, **options: object) -> nn.Module:
    return eg.nn.ZCAWhitening(C, group_size=4, gradient=eg.PowerIteration(), solver="svd", **options)  # type: ignore[arg-type]


def denoising(dimensions: int = 4, **options: object) -> nn.Module:
    return eg.nn.PCADenoising(C, rank=4, **options)  # type: ignore[arg-type]


def denoising_by_energy(dimensions: int = 4, **options: object) -> nn.Module:
    return eg.nn.PCADenoising(C, energy=0.8, errors="skip", **options)  # type: ignore[arg-type]


every_layer = pytest.mark.parametrize(
    "make", [batch_norm, whitening, whitening_with_one_left, paper_whitening, denoising, denoising_by_energy]
)


def draw(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """Correlated channels with a mean, and spectra without ties."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.eye(shape[1]) + torch.randn(shape[1], shape[1], generator=torch.Generator().manual_seed(7)) / 2
    data = torch.randn(shape[0], *shape[2:], shape[1], generator=generator) @ mixing + 2.0
    return data.movedim(-1, 1).contiguous().to(dtype)


def trained(make: Make, dimensions: int = 4, **options: object) -> nn.Module:
    """With parameters and running estimates of its own."""
    layer = make(dimensions, **options)
    generator = torch.Generator().manual_seed(3)
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, 0.5, 1.5, generator=generator)
    for seed in (11, 12):
        layer(draw(*SHAPES[dimensions - 2], seed=seed, dtype=options.get("dtype", torch.float32)))  # type: ignore[arg-type]
    return layer


def buffers(layer: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in layer.named_buffers()}


def assert_same_buffers(layer: nn.Module, before: dict[str, Tensor]) -> None:
    for name, buffer in layer.named_buffers():
        torch.testing.assert_close(buffer, before[name], rtol=0, atol=0)


@every_layer
@pytest.mark.parametrize("shape", SHAPES)
def test_shapes(make: Make, shape: tuple[int, ...]) -> None:
    """Every number of dimensions is the same computation on the same observations."""
    x, layer = draw(*shape), trained(make, len(shape))
    flat = make(2)
    flat.load_state_dict(layer.state_dict())
    for training in (True, False):
        y = layer.train(training)(x)
        assert (y.shape, y.dtype) == (x.shape, x.dtype)
        rows = flat.train(training)(x.movedim(1, -1).reshape(-1, C))
        torch.testing.assert_close(y.movedim(1, -1).reshape(-1, C), rows, rtol=1e-4, atol=1e-4)


@every_layer
@pytest.mark.parametrize("shape", SHAPES[2:])
@pytest.mark.parametrize("training", [True, False])
def test_memory_format(make: Make, shape: tuple[int, ...], training: bool) -> None:
    """channels_last in, channels_last out, for gradients too; contiguous in, contiguous out."""
    last = torch.channels_last if len(shape) == 4 else torch.channels_last_3d
    layer = trained(make, len(shape)).train(training)
    gradients = []
    for memory_format in (torch.contiguous_format, last):
        x = draw(*shape).contiguous(memory_format=memory_format).requires_grad_()
        y = layer(x)
        assert y.is_contiguous(memory_format=memory_format)
        gradients.append(torch.autograd.grad(y, x, draw(*shape, seed=1).contiguous(memory_format=memory_format))[0])
        if make is not whitening_with_one_left:  # a block of one channel has no memory format to go by
            assert gradients[-1].is_contiguous(memory_format=memory_format)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


@every_layer
@pytest.mark.parametrize(
    "view", [lambda x: x[::2], lambda x: x.transpose(0, 3), lambda x: x[:, :1].expand(-1, C, -1, -1)]
)
def test_strides(make: Make, view: Callable[[Tensor], Tensor]) -> None:
    """A view counts as its values do. (In double precision: equal channels leave eps alone to divide by.)"""
    x = draw(16, C, 5, C) if view(draw(16, C, 5, C)).shape[1] == C else draw(*IMAGES)
    x, layer = view(x.double()), trained(make).double()
    a, b = x.detach().requires_grad_(), x.contiguous().requires_grad_()
    (layer(a) ** 2).sum().backward()
    (layer(b) ** 2).sum().backward()
    assert a.grad is not None
    torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-3)


@every_layer
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("training", [True, False])
def test_half_precision(make: Make, dtype: torch.dtype, training: bool) -> None:
    """Half precision data, float32 parameters and estimates: only input and output are rounded."""
    layer, reference = trained(make).train(training), trained(make).train(training)
    x = draw(*IMAGES).to(dtype).requires_grad_()
    exact = x.detach().float().requires_grad_()
    y, expected = layer(x), reference(exact)
    assert y.dtype == dtype
    tolerance = 2 * torch.finfo(dtype).eps * expected.abs().max().item()
    torch.testing.assert_close(y.float(), expected, rtol=0, atol=tolerance)
    G = draw(*IMAGES, seed=1).to(dtype)
    actual, reference_gradient = torch.autograd.grad(y, x, G)[0], torch.autograd.grad(expected, exact, G.float())[0]
    tolerance = 8 * torch.finfo(dtype).eps * reference_gradient.abs().max().item()
    torch.testing.assert_close(actual.float(), reference_gradient, rtol=0, atol=tolerance)
    for name, buffer in reference.named_buffers():
        torch.testing.assert_close(layer.get_buffer(name), buffer, rtol=1e-4, atol=1e-4)


@every_layer
def test_wholly_in_half_precision(make: Make) -> None:
    layer = trained(make).bfloat16()
    for training in (True, False):
        y = layer.train(training)(draw(*IMAGES).bfloat16())
        assert y.dtype == torch.bfloat16
        assert y.isfinite().all()
    assert all(b.dtype in (torch.bfloat16, torch.long) for b in layer.buffers())


@every_layer
def test_autocast(make: Make) -> None:
    """As outside of it."""
    results = []
    for enabled in (False, True):
        layer, x = trained(make), draw(*IMAGES).requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            y = layer(x)
            assert copy.deepcopy(layer)(x.bfloat16()).dtype == torch.bfloat16
        (y**3).sum().backward()
        results.append((y, x.grad, *buffers(layer).values()))
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=0, atol=0)


@every_layer
def test_momentum(make: Make) -> None:
    """1 replaces, 0 keeps, and in between is in between."""
    x = draw(*IMAGES)
    new = make(momentum=1.0)
    new(x)
    for momentum in (0.0, 0.25):
        layer = make(momentum=momentum)
        initial = layer.running_mean.clone()
        layer(x)
        torch.testing.assert_close(layer.running_mean, initial.lerp(new.running_mean, momentum))


@every_layer
def test_cumulative_average(make: Make) -> None:
    layer, batches = make(momentum=None), [draw(*IMAGES, seed=seed) for seed in range(3)]
    for batch in batches:
        layer(batch)
    torch.testing.assert_close(layer.running_mean, torch.stack(batches).mean(dim=(0, 1, 3, 4)))
    assert layer.num_batches_tracked == 3


@every_layer
def test_without_running_statistics(make: Make) -> None:
    """Evaluation uses the batch's moments, and there is nothing to save but parameters."""
    layer, x = make(track_running_stats=False), draw(*IMAGES)
    assert list(layer.state_dict()) == ["weight", "bias"]
    torch.testing.assert_close(layer(x), layer.eval()(x), rtol=0, atol=0)
    tracked = make()
    tracked.track_running_stats = False  # set later: the estimates stay, and evaluation uses them
    before = buffers(tracked)
    tracked(x)
    assert_same_buffers(tracked, before)
    torch.testing.assert_close(tracked.eval()(x), make().eval()(x))


@every_layer
def test_without_affine(make: Make) -> None:
    layer, x = make(affine=False), draw(*IMAGES)
    assert not list(layer.parameters())
    assert layer.weight is None
    assert layer.bias is None
    torch.testing.assert_close(layer(x), make()(x))


@every_layer
def test_without_bias(make: Make) -> None:
    layer, x = make(bias=False), draw(*IMAGES)
    assert list(dict(layer.named_parameters())) == ["weight"]
    torch.testing.assert_close(layer(x), make()(x))


@every_layer
def test_only_a_bias(make: Make) -> None:
    """Parameters may be taken away one by one."""
    layer, x = make(), draw(*IMAGES)
    layer.weight = None
    nn.init.ones_(layer.bias)
    torch.testing.assert_close(layer(x), make()(x) + 1.0)


@every_layer
@pytest.mark.parametrize("training", [True, False])
def test_gradcheck(make: Make, training: bool) -> None:
    """In the input and both parameters; in evaluation the estimates are constants. (A rule is no derivative.)"""
    layer = trained(make, 2, dtype=torch.float64).train(training)
    if training and make in (paper_whitening, denoising, denoising_by_energy):
        pytest.skip("its gradient is a rule's; see the tests of that layer")
    x = draw(12, C, dtype=torch.float64)
    names = ("weight", "bias")

    def function(x: Tensor, *parameters: Tensor) -> Tensor:
        fixed = {name: buffer.clone() for name, buffer in layer.named_buffers()}
        return torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)) | fixed, (x,))

    inputs = [t.detach().clone().requires_grad_() for t in (x, layer.weight, layer.bias)]
    assert torch.autograd.gradcheck(function, inputs)
    if make is whitening:
        assert torch.autograd.gradgradcheck(function, inputs, atol=1e-4)


@every_layer
def test_evaluation_is_an_affine_map(make: Make) -> None:
    """Each sample on its own, and no estimate changes."""
    layer, x = trained(make).eval(), draw(*IMAGES)
    before = buffers(layer)
    torch.testing.assert_close(layer(x)[:2], layer(x[:2]), rtol=1e-5, atol=1e-5)
    middle = layer((x[:4] + x[4:]) / 2)
    torch.testing.assert_close(middle, (layer(x[:4]) + layer(x[4:])) / 2, rtol=1e-4, atol=1e-4)
    assert_same_buffers(layer, before)


@every_layer
def test_training_does_not_read_running_statistics(make: Make) -> None:
    layer, x = trained(make), draw(*IMAGES)
    expected = layer(x)
    layer.reset_running_stats()
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=0)


@every_layer
def test_statistics_are_updated_in_place_and_without_gradients(make: Make) -> None:
    """In training alone, with gradients or without; the tensors stay the same, for whoever holds them."""
    layer = make()
    held = dict(layer.named_buffers())
    with torch.no_grad():
        layer(draw(*IMAGES))
    layer(draw(*IMAGES).requires_grad_()).sum().backward()
    assert layer.num_batches_tracked == 2
    for name, buffer in layer.named_buffers():
        assert buffer is held[name]
        assert not buffer.requires_grad


@every_layer
def test_frozen_statistics(make: Make) -> None:
    """Fine-tuning: the layer in evaluation inside a network in training learns scale and offset, nothing else."""
    network = nn.Sequential(nn.Conv2d(3, C, 3), trained(make), nn.ReLU(inplace=True)).train()
    network[1].eval()
    before = buffers(network)
    network(torch.rand(4, 3, 8, 8)).sum().backward()
    assert_same_buffers(network, before)
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in network.parameters())


@every_layer
def test_gradient_accumulation(make: Make) -> None:
    layer, halves = trained(make), (draw(*IMAGES, seed=1), draw(*IMAGES, seed=2))
    separate = [torch.autograd.grad((layer(half) ** 2).sum(), list(layer.parameters())) for half in halves]
    for half in halves:
        (layer(half) ** 2).sum().backward()
    for parameter, first, second in zip(layer.parameters(), *separate, strict=True):
        torch.testing.assert_close(parameter.grad, first + second)


@every_layer
def test_input_is_left_alone_and_output_may_be_overwritten(make: Make) -> None:
    layer, x = trained(make), draw(*IMAGES).requires_grad_()
    before = x.detach().clone()
    layer(x).relu_().sum().backward()
    torch.testing.assert_close(x.detach(), before, rtol=0, atol=0)


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
