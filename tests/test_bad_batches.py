"""What the layers do where moments make no sense: NaN, infinity, overflow, single observations, dead channels."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import eigengrad as eg

BAD = {"NaN": float("nan"), "infinity": float("inf"), "overflow": 1e30}


def draw(seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Ten channels: two groups of four and one of two."""
    return torch.randn(16, 10, 3, 3, dtype=dtype, generator=torch.Generator().manual_seed(seed)) + 1.0


def spoiled(what: str, channel: int = 5) -> Tensor:
    x = draw()
    x[3, channel] = BAD[what]
    return x


def whole(x: Tensor) -> Tensor:
    """Where no channel is NaN or infinite: a product, even with the identity, mixes those of one observation."""
    return x.isfinite().all(dim=1, keepdim=True).expand_as(x)


@pytest.fixture(params=[None, eg.PowerIteration()], ids=repr)
def layer(request: pytest.FixtureRequest) -> eg.nn.ZCAWhitening:
    layer = eg.nn.ZCAWhitening(10, group_size=4, errors="skip", gradient=request.param)
    assert layer.weight is not None
    nn.init.uniform_(layer.weight, 0.5, 1.5, generator=torch.Generator().manual_seed(1))
    layer(draw(seed=1))
    return layer


@pytest.mark.parametrize("what", BAD)
@pytest.mark.parametrize("solver", ["eigh", "svd", "qr"])
@pytest.mark.parametrize(("channel", "channels"), [(5, "4 to 7"), (9, "8 to 9")])
def test_raise(what: str, solver: str, channel: int, channels: str) -> None:
    """The default: an error that says where to look, and nothing has changed."""
    layer = eg.nn.ZCAWhitening(10, group_size=4, solver=solver)
    before = copy.deepcopy(layer.state_dict())
    with pytest.raises(torch.linalg.LinAlgError, match=f"of channels {channels} is not finite.*errors='skip'"):
        layer(spoiled(what, channel))
    torch.testing.assert_close(layer.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize("what", BAD)
def test_skip(layer: eg.nn.ZCAWhitening, what: str) -> None:
    """The bad group passes as it is, and keeps its running estimates; the others get what they would get alone."""
    clean, x = copy.deepcopy(layer), spoiled(what).requires_grad_()
    bad, others = slice(4, 8), [0, 1, 2, 3, 8, 9]
    before = copy.deepcopy(layer.state_dict())
    y, expected = layer(x), clean(draw())
    torch.testing.assert_close(y[:, others], expected[:, others], rtol=0, atol=0)
    assert layer.weight is not None
    identity, finite = x[:, bad] * layer.weight[bad].view(-1, 1, 1), whole(x[:, bad])
    torch.testing.assert_close(y[:, bad][finite], identity[finite])
    for name in ("running_mean", "running_covariance"):
        torch.testing.assert_close(layer.get_buffer(name)[bad], before[name][bad], rtol=0, atol=0)
        torch.testing.assert_close(layer.get_buffer(name)[others], clean.get_buffer(name)[others], rtol=0, atol=0)
    assert layer.num_batches_tracked == 2


@pytest.mark.parametrize("what", BAD)
def test_gradient_of_a_skipped_group(layer: eg.nn.ZCAWhitening, what: str) -> None:
    """That of the identity, wherever the input is finite; other groups' are untouched."""
    x, clean = spoiled(what).requires_grad_(), draw().requires_grad_()
    G = draw(seed=2)
    (gradient,), (expected,) = (torch.autograd.grad(copy.deepcopy(layer)(z), z, G) for z in (x, clean))
    others = [0, 1, 2, 3, 8, 9]
    torch.testing.assert_close(gradient[:, others], expected[:, others], rtol=0, atol=0)
    assert layer.weight is not None
    identity = G[:, 4:8] * layer.weight[4:8].view(-1, 1, 1)
    finite = whole(x[:, 4:8])
    torch.testing.assert_close(gradient[:, 4:8][finite], identity[finite])


def test_a_wholly_bad_batch_leaves_everything_as_it_was(layer: eg.nn.ZCAWhitening) -> None:
    for x in (torch.full((4, 10), float("nan")), draw()[:1, :, :1, :1], torch.zeros(0, 10)):
        before = copy.deepcopy(layer.state_dict())
        y = layer(x)
        torch.testing.assert_close(y, layer.weight.view(-1, *[1] * (x.dim() - 2)) * x, equal_nan=True)
        torch.testing.assert_close(layer.state_dict(), before, rtol=0, atol=0)


def test_a_skipped_batch_is_not_averaged() -> None:
    layer = eg.nn.ZCAWhitening(10, momentum=None, errors="skip")
    layer(torch.full((4, 10), float("inf")))
    layer(draw())
    torch.testing.assert_close(layer.running_mean, draw().mean(dim=(0, 2, 3)))


@pytest.mark.parametrize("what", BAD)
def test_denoising(what: str) -> None:
    layer, x = eg.nn.PCADenoising(10, rank=3, errors="skip"), spoiled(what)
    layer(draw(seed=1))
    before = copy.deepcopy(layer.state_dict())
    torch.testing.assert_close(layer(x)[whole(x)], x[whole(x)])
    torch.testing.assert_close(layer.state_dict(), before, rtol=0, atol=0)
    strict = eg.nn.PCADenoising(10, rank=3)
    before = copy.deepcopy(strict.state_dict())
    with pytest.raises(torch.linalg.LinAlgError, match="errors='skip'"):
        strict(x)
    torch.testing.assert_close(strict.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize("function", ["sqrtm", "logm", 0.3])
@pytest.mark.parametrize("what", BAD)
def test_pooling(what: str, function: str | float) -> None:
    """One bad sample: its vector and gradient are zero, and the others get what they would get alone."""
    layer, x = eg.nn.CovariancePooling(function, errors="skip"), spoiled(what).requires_grad_()
    clean = draw().requires_grad_()
    y, expected = layer(x), layer(clean)
    G = torch.randn(y.shape, generator=torch.Generator().manual_seed(2))
    (gradient,), (reference,) = torch.autograd.grad(y, x, G), torch.autograd.grad(expected, clean, G)
    for actual, wanted in ((y, expected), (gradient, reference)):
        assert not actual[3].any()
        rest = [*range(3), *range(4, 16)]
        torch.testing.assert_close(actual[rest], wanted[rest])
    with pytest.raises(torch.linalg.LinAlgError, match="of sample 3 is not finite"):
        eg.nn.CovariancePooling(function)(x)


MAKERS = {
    "whitening": lambda **options: eg.nn.ZCAWhitening(6, group_size=3, **options),
    "by a rule": lambda **options: eg.nn.ZCAWhitening(6, group_size=3, gradient=eg.PowerIteration(), **options),
    "denoising": lambda **options: eg.nn.PCADenoising(6, rank=4, **options),
    "denoising by energy": lambda **options: eg.nn.PCADenoising(6, energy=0.9, **options),
}


@pytest.mark.parametrize("errors", ["raise", "skip"])
@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize(
    "batch",
    [
        lambda x: x[:3],  # fewer observations than channels
        lambda x: x * torch.tensor([1.0, 0.0, 1.0, 1.0, 1.0, 0.0]),  # dead channels
        lambda x: x[:, :1] + torch.arange(6.0),  # equal channels
        lambda x: torch.ones_like(x),  # nothing varies
        lambda x: 1e-20 * x,
        lambda x: 1e15 * x,
    ],
)
def test_degenerate_batches_are_no_errors(
    batch: Callable[[Tensor], Tensor], kind: str, errors: str, generator: torch.Generator
) -> None:
    """Finite output, gradients, running estimates and evaluation."""
    layer = MAKERS[kind](errors=errors)
    x = batch(torch.randn(20, 6, generator=generator)).requires_grad_()
    y = layer(x)
    (y**3).sum().backward()
    for result in (y, x.grad, *layer.state_dict().values(), layer.eval()(x)):
        assert result is not None
        assert result.isfinite().all()
    assert layer.num_batches_tracked == 1


def test_no_decision_depends_on_the_data() -> None:
    """ "skip" compiles into one graph, which serves good and bad batches alike."""
    torch._dynamo.reset()
    layer = eg.nn.ZCAWhitening(10, group_size=4, errors="skip")
    twin = copy.deepcopy(layer)
    compiled = torch.compile(twin, fullgraph=True, backend="aot_eager")
    for x in (draw(), spoiled("NaN"), spoiled("overflow")):
        torch.testing.assert_close(compiled(x), layer(x), equal_nan=True)
        torch.testing.assert_close(twin.state_dict(), layer.state_dict())


def test_raise_under_vmap() -> None:
    batches = torch.stack([draw(), spoiled("NaN", 9), draw()])
    with pytest.raises(torch.linalg.LinAlgError, match="of channels 8 to 9 is not finite"):
        torch.func.vmap(lambda x: eg.whiten(x, group_size=4))(batches)


def test_unknown_policy() -> None:
    for make in MAKERS.values():
        with pytest.raises(ValueError, match="errors must be 'raise' or 'skip', got 'ignore'"):
            make(errors="ignore")


def test_features_whose_eps_lies_below_the_covariances_rounding(generator: torch.Generator) -> None:
    """Fewer positions than channels: eigenvalues that are eps come out negative, and are taken to be eps."""
    x = 1e3 * torch.randn(2, 16, 5, generator=generator)
    y, right = (eg.nn.functional.whiten_features(z, 1e-5, relative_eps=0.0) for z in (x, x.double()))
    assert y.isfinite().all() and abs(float(y.norm() / right.norm()) - 1) < 0.05
