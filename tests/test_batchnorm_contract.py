"""PyTorch's expectations of a normalisation layer, row by row: each one is run on ``nn.BatchNorm`` itself as well.

Here what it does to data; as a module, see ``test_batchnorm_module.py``.

Different, and why:

* A wrong number of channels is a ``ValueError`` here, a ``RuntimeError`` there: users' mistakes are ``ValueError``.
* ``(N, C, *)`` with any number of positions goes into one class; BatchNorm has one for each number of dimensions.
* Running covariances are biased, as the batch's are, where BatchNorm's running variance is not: what is averaged is
  what was applied.
* Running estimates stay in float32 where parameters are in half precision; BatchNorm's are rounded with them.
* An empty batch leaves the running estimates as they are; BatchNorm makes NaN of them.
* NaN raises, or skips the group (``errors``); BatchNorm passes NaN on into its running estimates.
* Whitening under ``torch.func.vmap`` needs ``track_running_stats=False``, as BatchNorm does: buffers change in place.
"""

import copy
from collections.abc import Callable

import pytest
import torch
from layers import (
    IMAGES,
    SHAPES,
    C,
    Make,
    assert_same_buffers,
    batch_norm,
    buffers,
    denoising,
    denoising_by_energy,
    draw,
    every_layer,
    paper_whitening,
    trained,
    whitening,
    whitening_with_one_left,
)
from torch import Tensor, nn


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
    """BatchNorm's estimates are rounded, too: a hundredth of a new one, added to an old one, is lost. Ours are not."""
    layer = trained(make).bfloat16()
    for training in (True, False):
        y = layer.train(training)(draw(*IMAGES).bfloat16())
        assert y.dtype == torch.bfloat16
        assert y.isfinite().all()
    wide = torch.bfloat16 if make is batch_norm else torch.float32
    assert all(b.dtype in (wide, torch.long) for b in layer.buffers())


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
