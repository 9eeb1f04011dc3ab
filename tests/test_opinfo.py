"""PyTorch's own samples for linalg.eigh, linalg.svd and matrix_exp, given to ours; and its check of the operators."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from functions import positive_definite
from spectra import symmetrised
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

import eigengrad as eg
from eigengrad.native import passes, reference

Function = Callable[[Tensor], Tensor]
DTYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128)


class Pair(NamedTuple):
    """One sample's input, and what ours and torch's function make of it that no sign or phase changes."""

    ours: Function
    theirs: Function
    input: Tensor


def of_eigenvectors(L: Tensor, V: Tensor) -> Tensor:
    return torch.cat([(V * L.sin().unsqueeze(-2)) @ V.mH, L.unsqueeze(-2).to(V.dtype)], dim=-2)


def eigh_pair(A: Tensor, **options: str) -> Pair:
    ours = lambda A: of_eigenvectors(*eg.eigh(symmetrised(A), gradient=eg.Exact(), **options))  # noqa: E731
    return Pair(ours, lambda A: of_eigenvectors(*torch.linalg.eigh(symmetrised(A), **options)), A)


def svd_pair(A: Tensor, **options: bool) -> Pair:
    def of(svd: Callable[..., tuple[Tensor, Tensor, Tensor]]) -> Function:
        def function(A: Tensor) -> Tensor:
            U, S, Vh = svd(A)
            k = S.shape[-1]  # the others are any that complete a basis
            return (U[..., :k] * S.sin().unsqueeze(-2)) @ Vh[..., :k, :]

        return function

    # torch has no derivative for the vectors that complete the basis.
    ours = functools.partial(eg.svd, gradient=eg.Exact(), **options)
    return Pair(of(ours), of(functools.partial(torch.linalg.svd, full_matrices=False)), A)


def exponential_pair(A: Tensor) -> Pair:
    return Pair(lambda A: eg.expm(symmetrised(A)), lambda A: torch.linalg.matrix_exp(symmetrised(A)), A)


PAIRS: dict[str, Callable[..., Pair]] = {
    "linalg.eigh": eigh_pair,
    "linalg.svd": svd_pair,
    "matrix_exp": exponential_pair,
}


def samples(name: str, dtype: torch.dtype, *, few: bool) -> list[Pair]:
    """One sample of each shape, layout and set of options; or a few, for tracers, which take their time."""
    # Not at the top: this takes seconds, and pytest reads this file in every process.
    op_db = pytest.importorskip("torch.testing._internal.common_methods_invocations").op_db
    (op,) = (op for op in op_db if op.name == name)
    found = {}
    for sample in op.sample_inputs("cpu", dtype):
        for version in (sample, sample.noncontiguous()):
            A = version.input.detach()
            m, n = A.shape[-2:]
            kind = (A.dim() > 2, m > n, m < n, A.numel() == 0) if few else (A.shape, A.stride(), str(sample.kwargs))
            found.setdefault(kind, PAIRS[name](A, **sample.kwargs))
    return list(found.values())


def gradient(function: Function, A: Tensor) -> Tensor:
    leaf = A.detach().requires_grad_()
    result = function(leaf)
    weights = torch.linspace(-1, 2, result.numel(), dtype=result.dtype.to_real()).reshape(result.shape)
    return torch.autograd.grad((weights * result).real.sum(), leaf)[0]


def same_value(pair: Pair) -> None:
    close(pair.ours(pair.input), pair.theirs(pair.input))


def same_gradient(pair: Pair) -> None:
    close(gradient(pair.ours, pair.input), gradient(pair.theirs, pair.input))


def same_tangent(pair: Pair) -> None:
    dA = torch.randn_like(pair.input)
    close(*(torch.func.jvp(function, (pair.input,), (dA,)) for function in (pair.ours, pair.theirs)))


def same_by_linearization(pair: Pair) -> None:
    dA = torch.randn_like(pair.input)
    value, push_forward = torch.func.linearize(pair.ours, pair.input)
    close((value, push_forward(dA)), torch.func.jvp(pair.theirs, (pair.input,), (dA,)))


def same_under_vmap(pair: Pair) -> None:
    expected = pair.theirs(pair.input)
    for dim in range(pair.input.dim() - 2):
        if pair.input.shape[dim]:
            close(torch.vmap(pair.ours, in_dims=dim, out_dims=dim)(pair.input), expected)
    several = torch.stack([pair.input, 2 * pair.input], dim=-1)
    close(torch.vmap(pair.ours, in_dims=-1)(several)[1], pair.theirs(2 * pair.input))


def same_when_traced(pair: Pair, mode: str) -> None:
    graph = make_fx(pair.ours, tracing_mode=mode)(pair.input)
    close(graph(2 * pair.input), pair.theirs(2 * pair.input))


CHECKS: dict[str, Callable[[Pair], None]] = {
    "value": same_value,
    "gradient": same_gradient,
    "tangent": same_tangent,
    "linearize": same_by_linearization,
    "vmap": same_under_vmap,
    **{f"make_fx {mode}": functools.partial(same_when_traced, mode=mode) for mode in ("real", "fake", "symbolic")},
}


def close(actual: Any, expected: Any) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("name", PAIRS)
def test_samples_of_torch(name: str, dtype: torch.dtype, check: str) -> None:
    found = samples(name, dtype, few=check.startswith(("linearize", "make_fx")))
    assert len(found) >= 2
    for pair in found:
        CHECKS[check](pair)


# The operators, as torch.library.opcheck sees them: schema, fake implementation, dispatch under AOTAutograd.

SHAPES = ((3, 3), (5, 4, 4), (2, 3, 4, 4), (0, 3, 3), (2, 0, 0))


def layouts(A: Tensor) -> list[Tensor]:
    """As it is, by columns, and every other entry of a larger tensor."""
    spread = A.new_zeros(*A.shape, 2)
    spread[..., 0] = A
    return [A, A.mT.contiguous().mT, spread[..., 0]]


def of_matrices(operator: str) -> list[tuple[Any, ...]]:
    """Arguments of the operators that take matrices or their eigenvectors."""
    arguments: list[tuple[Any, ...]] = []
    kinds = eg.native.operators.KINDS
    for dtype in DTYPES:
        for shape in SHAPES:
            for A in layouts(positive_definite(*shape, dtype=dtype)):
                L, V = torch.linalg.eigh(A)
                real = L.unsqueeze(-1) + L.unsqueeze(-2)
                diagonals = {"eigenvectors": (None, L), "rule": (None, L), "projector": ((L > 1.0).to(L.dtype),)}
                arguments += {
                    "eigh": [(A, always, function, False) for always in (False, True) for function in (False, True)],
                    "root": [(A, inverse, 0.25, False, False) for inverse in (False, True)],
                    "function": [
                        (A, kinds[kind], exponent, False, False)
                        for kind, exponent in (("exponential", 0.0), ("logarithm", 0.0), ("power", 0.3))
                    ],
                    "refine": [(A, V)],
                    "recompose": [(V, L)],
                    "pull_back": [
                        (V, A, weights, diagonal, kinds[kind], 0.3, 19, 18)
                        for kind, weights in (
                            ("eigenvectors", real),
                            ("function", real),
                            *((kind, L) for kind in kinds if kind not in ("eigenvectors", "function")),
                        )
                        for diagonal in diagonals.get(kind, (None,))
                    ],
                }[operator]
    return arguments


def of_data(operator: str) -> list[tuple[Any, ...]]:
    """Arguments of the operators that pass over data ``(B, G, d, M)``."""
    arguments: list[tuple[Any, ...]] = []
    for dtype in (torch.float32, torch.float64):
        for B, G, d, M in ((4, 2, 3, 5), (1, 1, 4, 9)):
            generator = torch.Generator().manual_seed(0)
            x, g = torch.randn(2, B, G, d, M, dtype=dtype, generator=generator)
            T, C = torch.randn(2, G, d, d, dtype=dtype, generator=generator)
            C = C @ C.mT + torch.eye(d, dtype=dtype)
            centre, offset = torch.randn(2, G, d, 1, dtype=dtype, generator=generator)
            for data in (x, x.mT.contiguous().mT, torch.cat([x, x], dim=1)[:, :G]):
                arguments += {
                    "moments": [(data, shrinkage, 1e-3, 0.1) for shrinkage in (-1.0, 0.0, 0.3)],
                    "moments_backward": [
                        (g.clone(), data, centre, C, *cotangents, shrinkage, 0.1)
                        for shrinkage in (-1.0, 0.3)
                        for cotangents in ((offset, None, T), (None, T, None), (offset, T, T))
                    ],
                    "affine": [
                        (g.clone(), data, T, centre, scale, shift)
                        for scale, shift in ((None, None), (offset, None), (None, centre), (offset, centre))
                    ],
                    "affine_backward": [
                        (gx, data, g, T, centre, scale)
                        for gx in (None, torch.empty_like(g))
                        for scale in (None, offset)
                    ],
                    "update": of_estimates(centre, C),
                }[operator]
    return arguments


def of_estimates(mean: Tensor, covariance: Tensor) -> list[tuple[Any, ...]]:
    G, d, _ = covariance.shape
    running = torch.zeros(G * d, dtype=mean.dtype), torch.ones(G * d, d + 1, dtype=mean.dtype)[:, :d]
    count, good = torch.tensor(3), torch.arange(G) % 2 == 0
    return [
        (*running, count, None, mean, covariance, None, 0, 0.25, True),
        (*running, count, count + 0, mean, covariance, good, 0, 0.0, False),
        (None, running[1], None, None, mean, covariance, torch.cat([good, good]), G, 0.25, True),
        (running[0], None, count, None, mean, covariance, torch.ones_like(good), 0, 0.25, True),
    ]


OPERATORS = dict.fromkeys(("eigh", "root", "function", "refine", "recompose", "pull_back"), of_matrices)
OPERATORS |= dict.fromkeys(("moments", "moments_backward", "affine", "affine_backward", "update"), of_data)


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_keep_their_contract(name: str) -> None:
    operator = getattr(torch.ops.eigengrad, name).default
    for number, arguments in enumerate(OPERATORS[name](name)):
        # The last check takes most of the time; the others see every layout, shape and dtype.
        utilities = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")[: 3 if number % 5 == 0 else 2]
        torch.library.opcheck(operator, arguments, test_utils=utilities)


OF_TORCH_OPERATORS = {"qr_algorithm", "projection_unless_kept", "whitening_matrix_unless_kept"}
"""Made in Python of torch's own; what layers keep: test_running_estimates.py."""


def test_every_operator_is_checked() -> None:
    registered = {name.split("::")[1] for name in torch._C._dispatch_get_all_op_names() if name.startswith("eigengrad")}
    assert registered - OF_TORCH_OPERATORS == set(OPERATORS)


def run(operator: Callable[..., Any], arguments: tuple[Any, ...], *, eigenvectors: bool) -> list[Tensor]:
    """Results, and arguments, which may have been written to; without eigenvectors, whose sign is arbitrary."""
    arguments = tuple(each.clone() if isinstance(each, Tensor) else each for each in arguments)
    results = operator(*arguments)
    results = results if isinstance(results, tuple) else () if results is None else (results,)
    return [*(results[:-1] if eigenvectors else results), *(each for each in arguments if isinstance(each, Tensor))]


@pytest.mark.skipif(not eg.native.available(), reason="the kernel is not there")
@pytest.mark.parametrize("name", OPERATORS)
def test_kernel_and_reference_agree(name: str) -> None:
    """Whatever implements an operator, its results are the same to rounding."""
    decomposes = name in ("eigh", "root", "function")
    kernel, formula = (
        getattr(torch.ops.eigengrad, name).default,
        getattr(passes, name, None) or getattr(reference, name),
    )
    for arguments in OPERATORS[name](name):
        actual, expected = (run(operator, arguments, eigenvectors=decomposes) for operator in (kernel, formula))
        for ours, theirs in zip(actual, expected, strict=True):
            if theirs.dtype == torch.bool:
                assert torch.equal(ours, theirs)
                continue
            limit = 1e-4 if theirs.dtype in (torch.float32, torch.complex64) else 1e-11
            scale = max(1.0, theirs.abs().max().item()) if theirs.numel() else 1.0
            torch.testing.assert_close(ours, theirs, rtol=0.0, atol=limit * scale)
