"""The passes over the data: against plain formulas, whole or piece by piece, through every transform."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import eigengrad as eg
from eigengrad.nn.functional import moments as passes
from eigengrad.nn.functional.channel_groups import Layout

SHAPES = [(5, 2, 3, 7), (1, 2, 3, 33), (3, 2, 2, 20), (4, 1, 1, 6), (2, 3, 4, 1)]
Map = Callable[[Tensor], Tensor]


@pytest.fixture(params=[False, True], ids=["whole", "pieces"], autouse=True)
def pieces(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """The tests' data in one piece, or in several: a few images each, or a few observations of one image."""
    if request.param:
        monkeypatch.setattr(passes, "CACHE", 320)
    return request.param


def draw(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def by_formula(data: Tensor) -> tuple[Tensor, Tensor]:
    mean = data.mean(dim=(0, 3)).unsqueeze(-1)
    centred = data - mean
    return mean, torch.einsum("bgim,bgjm->gij", centred, centred) / (data.shape[0] * data.shape[3])


def transform(mean: Tensor, covariance: Tensor) -> Tensor:
    """A smooth asymmetric T, so that a transposed one shows, of the mean too, so that the mean's gradient matters."""
    identity = torch.eye(covariance.shape[-1], dtype=covariance.dtype)
    return (covariance + identity).inverse() * mean.cos() + mean.mT


def affine(data: Tensor, T: Tensor, mean: Tensor, offset: Tensor, route: Tensor | None = None) -> Tensor:
    """Of the data as they are, ``(B, G, d, M)``: one layout, that of images, there and back."""
    B, G, d, M = data.shape
    layout = Layout(torch.Size((B, G * d, M)), d, by_image=True, channels_last=False)
    return passes.affine(data, T, mean, None, offset, layout, route=route).unflatten(1, (G, d))


def ours(data: Tensor) -> Tensor:
    found = passes.moments(data)
    mean, route = found.mean, found.route
    return affine(data, transform(mean, found.covariance), mean, mean.sin(), route)


def plain(data: Tensor) -> Tensor:
    mean, covariance = by_formula(data)
    return transform(mean, covariance) @ (data - mean) + mean.sin()


def cube(function: Map) -> Map:
    return lambda data: (function(data) ** 3).sum()


def test_pieces_cover_everything(pieces: bool) -> None:
    for shape in SHAPES:
        data = draw(*shape)
        seen = torch.zeros_like(data)
        for part, same in passes._pieces(seen, data):
            assert part.shape == same.shape
            part += 1
        assert (seen == 1).all()
    assert len(list(passes._pieces(draw(3, 2, 2, 20)))) == (3 if pieces else 1)


@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients(shape: tuple[int, ...]) -> None:
    data, G = draw(*shape).requires_grad_(), draw(*shape, seed=1)
    for actual, expected in zip(passes.moments(data), by_formula(data), strict=False):
        torch.testing.assert_close(actual, expected)
    y, expected = ours(data), plain(data)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(torch.autograd.grad(y, data, G), torch.autograd.grad(expected, data, G))


def test_gradients_of_each_result() -> None:
    """A loss of the moments alone, and of the map alone, with any of its inputs constant."""
    data = draw(5, 2, 3, 7).requires_grad_()
    for choice in (0, 1):
        results = passes.moments(data)[choice], by_formula(data)[choice]
        torch.testing.assert_close(*(torch.autograd.grad((r**3).sum(), data)[0] for r in results))
    inputs = [draw(5, 2, 3, 7), draw(2, 3, 3), draw(2, 3, 1), draw(2, 3, 1, seed=1)]
    for variable in range(4):
        inputs = [tensor.detach().requires_grad_(index == variable) for index, tensor in enumerate(inputs)]
        x, T, mean, offset = inputs
        results = affine(x, T, mean, offset), T @ (x - mean) + offset
        torch.testing.assert_close(*(torch.autograd.grad((r**3).sum(), inputs[variable])[0] for r in results))


@pytest.mark.parametrize("shape", [(3, 1, 2, 4), (1, 2, 2, 9)])
def test_second_derivatives(shape: tuple[int, ...]) -> None:
    """Every way there: reverse twice (in place, where nobody looks), forward over reverse, vectorised or not."""
    data = draw(*shape)
    expected = torch.autograd.functional.hessian(cube(plain), data)
    torch.testing.assert_close(torch.autograd.functional.hessian(cube(ours), data), expected)
    torch.testing.assert_close(torch.autograd.functional.hessian(cube(ours), data, vectorize=True), expected)
    for outer, inner in ((torch.func.jacfwd, torch.func.jacrev), (torch.func.jacrev, torch.func.jacrev)):
        torch.testing.assert_close(outer(inner(cube(ours)))(data), expected)


def test_jacobians() -> None:
    data = draw(3, 2, 2, 5)
    expected = torch.autograd.functional.jacobian(plain, data)
    for vectorize in (False, True):
        torch.testing.assert_close(torch.autograd.functional.jacobian(ours, data, vectorize=vectorize), expected)
    for jacobian in (torch.func.jacrev, torch.func.jacfwd):
        torch.testing.assert_close(jacobian(ours)(data), expected)


def test_vmap() -> None:
    stacked = draw(3, 5, 2, 3, 7)
    expected = torch.stack([plain(data) for data in stacked])
    torch.testing.assert_close(
        torch.func.vmap(ours, in_dims=2, out_dims=4)(stacked.movedim(0, 2)).movedim(4, 0), expected
    )
    expected = torch.stack([torch.func.grad(cube(plain))(data) for data in stacked])
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(cube(ours)))(stacked), expected)
    T, mean = draw(3, 2, 3, 3), draw(2, 3, 1)
    several = torch.func.vmap(lambda T: affine(stacked[0], T, mean, mean))(T)
    torch.testing.assert_close(several, torch.stack([one @ (stacked[0] - mean) + mean for one in T]))


@pytest.mark.parametrize("offset", [1e3, 1e5])
def test_far_from_zero(offset: float) -> None:
    """The error grows with the mean, as the input's own rounding does, not with its square."""
    data = draw(8, 1, 4, 64, dtype=torch.float32) + offset
    _, covariance, *_ = passes.moments(data)
    tolerance = 1e-5 + torch.finfo(data.dtype).eps * offset
    torch.testing.assert_close(covariance.double(), by_formula(data.double())[1], rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_float32(dtype: torch.dtype) -> None:
    """Over 4096 observations bfloat16 would lose every digit; here only inputs and outputs are rounded."""
    data, G = draw(4, 2, 4, 1024).to(dtype).requires_grad_(), draw(4, 2, 4, 1024, seed=1).to(dtype)
    mean, covariance, *_ = passes.moments(data)
    assert mean.dtype == covariance.dtype == torch.float32
    exact = data.detach().double().requires_grad_()
    torch.testing.assert_close(covariance.double(), by_formula(exact)[1], rtol=1e-5, atol=1e-5)
    y, expected = ours(data), plain(exact)
    assert y.dtype == dtype
    tolerance = 4 * torch.finfo(dtype).eps * expected.abs().max().item()
    torch.testing.assert_close(y.double(), expected, rtol=0, atol=tolerance)
    actual, reference = torch.autograd.grad(y, data, G)[0], torch.autograd.grad(expected, exact, G.double())[0]
    tolerance = 4 * torch.finfo(dtype).eps * reference.abs().max().item()
    torch.testing.assert_close(actual.double(), reference, rtol=0, atol=tolerance)


@pytest.mark.parametrize("shape", [(0, 2, 3, 4), (4, 2, 3, 0)])
def test_nothing_observed(shape: tuple[int, ...]) -> None:
    data = torch.zeros(shape).requires_grad_()
    mean, covariance, *_ = passes.moments(data)
    assert not mean.any()
    assert not covariance.any()
    assert torch.autograd.grad(ours(data).sum(), data)[0].shape == shape


FORMATS = [(6, 4), (6, 4, 1), (6, 4, 9), (6, 4, 3, 5), (6, 4, 1, 1), (2, 4, 2, 3, 5)]


@pytest.mark.parametrize("d", [1, 2, 4])
@pytest.mark.parametrize("shape", FORMATS)
@pytest.mark.parametrize("last", [False, True])
def test_layout(shape: tuple[int, ...], d: int, last: bool) -> None:
    """There and back; large images are not copied, and come back in the memory format they had."""
    x = draw(*shape)
    format_last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(x.dim())
    if last and format_last is not None:
        x = x.contiguous(memory_format=format_last)
    layout = Layout.of(x, d)
    data = layout.arrange(x)
    observations = x.movedim(1, 0).reshape(4 // d, d, -1)
    torch.testing.assert_close(data.transpose(0, 2).transpose(0, 1).flatten(2), observations, rtol=0, atol=0)
    mean, covariance = by_formula(data)
    y = passes.affine(data, transform(mean, covariance), mean, None, mean.sin(), layout)
    torch.testing.assert_close(layout.arrange(y), plain(data))
    torch.testing.assert_close(y, layout.arrange_back(plain(data)))
    assert not y._is_view()
    for memory_format in (torch.contiguous_format, format_last or torch.contiguous_format):
        assert y.is_contiguous(memory_format=memory_format) == x.is_contiguous(memory_format=memory_format)
    if last or x[0, 0].numel() >= d:
        assert data.data_ptr() == x.data_ptr()


@pytest.mark.parametrize("name", ["ZCAWhitening", "PCADenoising"])
@pytest.mark.parametrize("last", [False, True])
def test_a_layer_after_changes_the_output_in_place(name: str, last: bool) -> None:
    """Of a view autograd would keep the whole backward: zeros, a clone and a copy of the data's size."""
    options = {"ZCAWhitening": {"group_size": 4}, "PCADenoising": {"rank": 3}}[name]
    layer, memory_format = getattr(eg.nn, name)(8, **options), torch.channels_last if last else torch.contiguous_format
    x = draw(16, 8, 12, 12, dtype=torch.float32).contiguous(memory_format=memory_format)
    grads = []
    for inplace in (False, True):
        leaf = x.clone().requires_grad_()
        y = torch.nn.ReLU(inplace=inplace)(layer(leaf))
        assert y.grad_fn is not None
        assert y.grad_fn.name() == "ReluBackward0"
        grads.append(torch.autograd.grad((y**2).sum(), leaf)[0])
    torch.testing.assert_close(*grads)


def test_nothing_of_the_inputs_size_is_saved() -> None:
    """Besides the input itself: no centred copy, no output."""
    layer, x = eg.nn.ZCAWhitening(8, group_size=4), draw(16, 8, 12, 12, dtype=torch.float32).requires_grad_()
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        layer(x)
    assert saved.pop(x.data_ptr()) == x.nbytes
    assert sum(saved.values()) <= 4 * 8 * (12 * 4 + 8)
