"""What looks at a function from outside (tracers, compilers, functional transforms) sees what eager computes."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from functions import FUNCTIONS, FUNCTIONS_OF_DATA, Results, gradient, positive_definite, weigh
from spectra import symmetrised
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

import eigengrad as eg
from eigengrad import native

Function = Callable[[Tensor], Results]
ALL = FUNCTIONS | FUNCTIONS_OF_DATA
MODES = ("real", "fake", "symbolic")
BATCHES = (1, 3, 64)
SIZES = (1, 2, 3, 8, 17, 40)
REAL = (torch.float32, torch.float64)
SHAPES = [(4, 4), (1, 3, 3), (64, 3, 3), (5, 8, 8)]

every_function = pytest.mark.parametrize("name", ALL)
every_function_of_matrices = pytest.mark.parametrize("name", FUNCTIONS)
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def assert_same_bits(actual: Any, expected: Any) -> None:
    actual, expected = pytree.tree_leaves(actual), pytree.tree_leaves(expected)
    assert len(actual) == len(expected)
    for ours, theirs in zip(actual, expected, strict=True):
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs), (ours - theirs).abs().max()


OF_TORCH = ("svd", "polar", "eigh_generalised", "of torch")
"""Made of torch's own operators, whose last bits depend on where in memory a matrix lies, or on a compiler's order."""


def assert_same(name: str, actual: Any, expected: Any) -> None:
    """Same bits, of what the kernel computes."""
    if native.available() and name not in OF_TORCH:
        return assert_same_bits(actual, expected)
    for ours, theirs in zip(pytree.tree_leaves(actual), pytree.tree_leaves(expected), strict=True):
        tolerance = 100 * torch.finfo(theirs.dtype).eps * max(1.0, theirs.abs().max().item())
        torch.testing.assert_close(ours, theirs, rtol=0.0, atol=tolerance)


def with_gradient(function: Function) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """Results and gradient, from one call."""

    def both(A: Tensor) -> tuple[Tensor, ...]:
        gA, results = torch.func.grad(lambda A: (weigh(R := function(A)), R), has_aux=True)(A)
        return (*results, gA)

    return both


# Linearisation and make_fx: a graph of operators, which must be those that eager calls.


def test_the_linearised_square_root() -> None:
    """At 4 I the derivative of the square root is a quarter of the tangent."""
    A, dA = 4 * torch.eye(4, dtype=torch.float64), torch.ones(4, 4, dtype=torch.float64)
    value, push_forward = torch.func.linearize(eg.sqrtm, A)
    torch.testing.assert_close(value, 2 * torch.eye(4, dtype=torch.float64))
    torch.testing.assert_close(push_forward(dA), dA / 4)
    torch.testing.assert_close(push_forward(3 * dA), 3 * dA / 4)


@every_function
@every_shape
def test_linearize(name: str, shape: tuple[int, ...]) -> None:
    """The value of eager, and its Jacobian: as forward mode has it, and the adjoint of reverse mode."""
    A = positive_definite(*shape)
    dA = symmetrised(torch.randn_like(A))
    value, push_forward = torch.func.linearize(ALL[name], A)
    assert_same_bits(value, ALL[name](A))
    tangents = push_forward(dA)
    torch.testing.assert_close(tangents, torch.func.jvp(ALL[name], (A,), (dA,))[1])
    torch.testing.assert_close(weigh(tangents), (gradient(ALL[name], A) * dA).sum())


@every_function
@every_shape
@pytest.mark.parametrize("mode", MODES)
def test_make_fx(name: str, shape: tuple[int, ...], mode: str) -> None:
    """Traced at one input, run on another."""
    A, other = positive_definite(*shape), positive_definite(*shape, seed=1)
    graph = make_fx(ALL[name], tracing_mode=mode)(A)
    assert_same(name, graph(other), ALL[name](other))


@every_function
@pytest.mark.parametrize("mode", MODES)
def test_make_fx_of_the_gradient(name: str, mode: str) -> None:
    A, other = positive_definite(5, 3, 3), positive_definite(5, 3, 3, seed=1)
    graph = make_fx(with_gradient(ALL[name]), tracing_mode=mode)(A)
    torch.testing.assert_close(graph(other), with_gradient(ALL[name])(other))


@every_function_of_matrices
def test_a_symbolic_graph_takes_any_batch(name: str) -> None:
    """What depends on the size of the batch is decided when the graph runs."""
    graph = make_fx(FUNCTIONS[name], tracing_mode="symbolic")(positive_definite(5, 3, 3))
    for size in (2, 64, 300):
        other = positive_definite(size, 3, 3, seed=1)
        assert_same_bits(graph(other), FUNCTIONS[name](other))


@pytest.mark.parametrize("name", ["eigh", "topk_eigh", "sqrtm"])
@every_shape
def test_jit_trace(name: str, shape: tuple[int, ...]) -> None:
    A, other = positive_definite(*shape), positive_definite(*shape, seed=1)
    function = (lambda A: tuple(eg.topk_eigh(A, 2))) if name == "topk_eigh" else FUNCTIONS[name]
    assert_same_bits(torch.jit.trace(function, A)(other), function(other))


@every_function_of_matrices
def test_functionalize(name: str) -> None:
    A = positive_definite(5, 3, 3)
    assert_same_bits(torch.func.functionalize(FUNCTIONS[name])(A), FUNCTIONS[name](A))


# Same bits.


@pytest.mark.skipif(not native.available(), reason="the last bits of LAPACK's depend on where a matrix lies in memory")
@every_function_of_matrices
@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("batch", BATCHES)
def test_same_bits_under_vmap(name: str, dtype: torch.dtype, n: int, batch: int) -> None:
    """vmap over each dimension of a batch, one after the other and both, is that batch; so is its gradient."""
    function = FUNCTIONS[name]
    A = positive_definite(batch, n, n, dtype=dtype)
    expected, gA = function(A), gradient(function, A)
    for dim in (0, 1, 2):
        moved = A.movedim(0, dim)
        assert_same(name, torch.vmap(function, in_dims=dim)(moved), expected)
        assert_same(name, gradient(lambda X, dim=dim: torch.vmap(function, in_dims=dim)(X), moved), gA.movedim(0, dim))
    B = positive_definite(2, batch, n, n, dtype=dtype)
    expected, gB = function(B), gradient(function, B)
    for dim in (0, 1):
        mapped = torch.vmap(function, in_dims=dim, out_dims=dim)
        assert_same(name, mapped(B), expected)
        assert_same(name, gradient(mapped, B), gB)
    twice = torch.vmap(torch.vmap(function))
    assert_same(name, twice(B), expected)
    assert_same(name, gradient(twice, B), gB)


@every_function_of_matrices
@pytest.mark.parametrize("dtype", REAL)
def test_same_bits_of_the_gradient_inside_vmap(name: str, dtype: torch.dtype) -> None:
    A = positive_definite(64, 3, 3, dtype=dtype)
    weights = [torch.randn(result.shape[1:], dtype=dtype) for result in FUNCTIONS[name](A)]

    def loss(A: Tensor) -> Tensor:
        return sum((weight * result).sum() for weight, result in zip(weights, FUNCTIONS[name](A), strict=True))

    assert_same(name, torch.vmap(torch.func.grad(loss))(A), torch.func.grad(loss)(A))


COMPILED = [(1, 3, torch.float64), (2, 64, torch.float32), (3, 64, torch.float64), (8, 1, torch.float32)]
COMPILED += [(17, 3, torch.float32), (40, 1, torch.float64), (8, 0, torch.float32), (3, 0, torch.float64)]


@every_function
@pytest.mark.parametrize(("n", "batch", "dtype"), COMPILED, ids=str)
def test_same_bits_compiled(name: str, n: int, batch: int, dtype: torch.dtype) -> None:
    """Results and gradient; to rounding those of layers, which a compiler fuses. A batch of 0 stands for one matrix."""
    torch._dynamo.reset()
    function, A = ALL[name], positive_definite(*([batch] if batch else []), n, n, dtype=dtype)
    compiled = torch.compile(ALL[name], fullgraph=True, backend="aot_eager", dynamic=False)
    name = "of torch" if name in ("whiten", "denoise") else name
    assert_same(name, gradient(compiled, A), gradient(function, A))
    assert_same(name, compiled(A), function(A))


@every_function_of_matrices
def test_same_bits_compiled_for_every_batch(name: str) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(FUNCTIONS[name], fullgraph=True, backend="aot_eager")
    batches = [positive_definite(size, 3, 3, dtype=torch.float32) for size in (5, 2, 64)]
    if name not in OF_TORCH:  # a tie is as harmless as in eager
        batches.append(torch.eye(3).expand(7, 3, 3).contiguous())
    for A in batches:
        torch._dynamo.mark_dynamic(A.requires_grad_(), 0)
        with torch.compiler.set_stance("default" if len(A) == 5 else "fail_on_recompile"):
            results = compiled(A)
            assert_same(name, results, FUNCTIONS[name](A))
            assert_same(name, torch.autograd.grad(weigh(results), A), gradient(FUNCTIONS[name], A))


def test_a_function_with_complex_values_is_compiled() -> None:
    def resolvent(A: Tensor) -> Tensor:
        return eg.matrix_function(A, lambda x: 1 / (x + 1j), lambda x, y: -1 / ((x + 1j) * (y + 1j))).abs()

    A = positive_definite(4, 4).requires_grad_()
    compiled = torch.compile(resolvent, fullgraph=True, backend="aot_eager")
    assert_same_bits(compiled(A), resolvent(A))
    assert_same_bits(gradient(compiled, A), gradient(resolvent, A))


@pytest.mark.parametrize("name", ["eigh", "logm"])
def test_inductor_agrees_to_rounding(name: str) -> None:
    torch._dynamo.reset()
    A = positive_definite(20, 4, 4)
    compiled = torch.compile(FUNCTIONS[name], fullgraph=True)
    torch.testing.assert_close(compiled(A), FUNCTIONS[name](A))
    torch.testing.assert_close(gradient(compiled, A), gradient(FUNCTIONS[name], A))


LAYERS: dict[str, Callable[[], torch.nn.Module]] = {
    "whitening": lambda: eg.nn.ZCAWhitening(8, group_size=4),
    "whitening with a rest": lambda: eg.nn.ZCAWhitening(8, group_size=3),
    "denoising": lambda: eg.nn.PCADenoising(8, rank=3),
    "pooling": lambda: eg.nn.CovariancePooling(),
}


@pytest.mark.parametrize(("training", "dynamic"), [(True, None), (False, None), (True, True)])
@pytest.mark.parametrize("name", LAYERS)
def test_layers_compiled_for_changing_shapes(name: str, training: bool, dynamic: bool | None) -> None:
    """In one graph each, whatever the batch and the size of the images."""
    torch._dynamo.reset()
    layer = LAYERS[name]().train(training)
    compiled = torch.compile(copy.deepcopy(layer), fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for shape in ((4, 8, 6, 6), (7, 8, 6, 6), (7, 8, 5, 9)):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(compiled(x), layer(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("shape", [(40, 8, 9), (6, 8, 10, 10)], ids=str)
def test_an_expanded_cotangent_is_a_contiguous_one(name: str, shape: tuple[int, ...]) -> None:
    """``y.sum().backward()`` sends back a one that is expanded to the shape of y."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
    found = []
    for contiguous in (False, True):
        layer = LAYERS[name]()
        y = layer(x)
        one = torch.ones(()).expand(y.shape)
        found.append(torch.autograd.grad(y, [x, *layer.parameters()], one.contiguous() if contiguous else one))
    assert_same_bits(*found)


@pytest.mark.parametrize("transform", ["grad", "jacrev", "jacfwd", "hessian"])
def test_a_compiler_inlines_no_function_that_is_differentiated_within(transform: str) -> None:
    """Dynamo of torch 2.13 would lose its derivative, and say nothing: the graph breaks there, or it is an error."""

    def loss(A: Tensor) -> Tensor:
        return eg.sqrtm(A).sum() + (eg.eigh(A).eigenvectors[:, 0] ** 3).sum() + A.trace()

    A = torch.tensor([[2.0, 0.5], [0.5, 1.0]], dtype=torch.float64)
    derivative = getattr(torch.func, transform)(loss)
    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(derivative, backend="aot_eager")(A), derivative(A))
    torch._dynamo.reset()
    with pytest.raises(torch._dynamo.exc.Unsupported, match="would differentiate what this function is made of"):
        torch.compile(derivative, backend="aot_eager", fullgraph=True)(A)
