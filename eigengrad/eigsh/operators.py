"""A Hermitian operator: its products with blocks of vectors, and how a cotangent reaches what it is made of."""

import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from eigengrad.arguments import as_integer
from eigengrad.autograd import Function, save

__all__ = ["Operator", "as_operator", "scaled"]

_DTYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128)
_SPARSE = (torch.sparse_coo, torch.sparse_csr)
_COLUMNS = 4
"""Taken at once where entries of a sparse matrix are visited, so that memory follows the entries."""


class Operator(NamedTuple):
    """``A``, made of ``params``."""

    n: int
    dtype: torch.dtype
    device: torch.device
    params: tuple[Tensor, ...]
    """In which it is differentiated."""
    product: Callable[..., Tensor]
    """``(X (n, b), *params) -> A X (n, b)``, differentiable in all."""
    pairing: Callable[..., Tensor]
    """``(U, X, *params) -> Re <U, A X>``, differentiable in all, with a Hermitian derivative in A."""
    fast: Callable[..., Callable[[Tensor], Tensor]]
    """``*params -> (X -> A X)``, without derivatives."""

    def constant(self) -> Callable[[Tensor], Tensor]:
        """``X -> A X`` at its own params, without derivatives."""
        return self.fast(*(param.detach() for param in self.params))


def as_operator(
    A: Tensor | Callable[..., Tensor],
    name: str,
    *,
    n: int | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    params: tuple[Tensor, ...] = (),
) -> Operator:
    """What :func:`eigengrad.eigsh` takes for an operator, as one.

    Raises:
        TypeError: if ``A`` is neither a tensor nor callable, or its layout or dtype is another.
        ValueError: if ``A`` is not square; if a callable comes without n or a dtype, or a tensor with params.
    """
    if isinstance(A, Tensor):
        if A.layout not in (torch.strided, *_SPARSE):
            raise TypeError(f"{name} must be a dense, sparse COO or sparse CSR tensor, got {A.layout}; convert it")
        if A.dtype not in _DTYPES:
            raise TypeError(f"{name} must be of float32, float64, complex64 or complex128, got {A.dtype}; convert it")
        if A.dim() != 2 or A.shape[0] != A.shape[1]:
            raise ValueError(
                f"{name} must be one square matrix (n, n), got shape {tuple(A.shape)}; for batches there is topk_eigh"
            )
        if params:
            raise ValueError(f"params are those of a callable, got {len(params)} with a tensor {name}")
        return _dense(A) if A.layout == torch.strided else _sparse(A)
    if not callable(A):
        raise TypeError(f"{name} must be a tensor or a function of blocks of vectors, got {type(A).__name__}")
    if n is None:
        raise ValueError(f"a callable {name} needs n, its size, and dtype (torch's default, else) and device")
    n = as_integer(n, "n")
    if n < 0:
        raise ValueError(f"n must be an integer of at least 0, got {n}")
    if not all(isinstance(param, Tensor) for param in params):
        raise TypeError(f"params must be tensors, got {[type(param).__name__ for param in params]}")
    like = params[0] if params else torch.empty(0)
    if (dtype or like.dtype) not in _DTYPES:
        raise TypeError(f"dtype must be float32, float64, complex64 or complex128, got {dtype or like.dtype}; give one")
    return _callable(A, name, n, dtype or like.dtype, torch.device(device or like.device), params)


def scaled(product: Callable[[Tensor], Tensor], at: Tensor) -> tuple[float, Callable[[Tensor], Tensor]]:
    """A power of two near the operator's norm, as its product with ``at`` shows it, and the operator divided by it.

    Squares of small and large entries leave the range of single precision; a scale is known for none but those.
    """
    if at.numel() == 0:
        return 1.0, product
    size, image = float(at.abs().max()), float(product(at).abs().max())
    if not (size > 0 and 0 < image < math.inf):
        return 1.0, product
    scale = 2.0 ** round(math.log2(image / size))
    if 1e-4 < scale < 1e4:
        return 1.0, product
    return scale, lambda X: product(X) / scale


def _dense(A: Tensor) -> Operator:
    def pairing(U: Tensor, X: Tensor, A: Tensor) -> Tensor:
        return ((U.conj() * (A @ X)).sum().real + (X.conj() * (A @ U)).sum().real) / 2

    return Operator(A.shape[0], A.dtype, A.device, (A,), lambda X, A: A @ X, pairing, lambda A: lambda X: A @ X)


def _sparse(A: Tensor) -> Operator:
    n = A.shape[0]
    if A.layout == torch.sparse_coo:
        A = A.coalesce()
        rows, columns = A.indices()
    else:
        counts = A.crow_indices().diff()
        rows = torch.repeat_interleave(torch.arange(n, device=A.device), counts)
        columns = A.col_indices().to(rows.dtype)

    def fast(values: Tensor) -> Callable[[Tensor], Tensor]:
        if A.layout == torch.sparse_csr:
            compressed = torch.sparse_csr_tensor(A.crow_indices(), A.col_indices(), values, A.shape)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch announces that CSR is in beta, to someone who has COO
                compressed = torch.sparse_coo_tensor(A.indices(), values, A.shape, is_coalesced=True).to_sparse_csr()
        return lambda X: compressed @ X

    def product(X: Tensor, values: Tensor) -> Tensor:
        return X.new_zeros(X.shape).index_add(0, rows, values[:, None] * X[columns])

    def pairing(U: Tensor, X: Tensor, values: Tensor) -> Tensor:
        total = values.new_zeros(values.shape)
        for u, x in zip(U.split(_COLUMNS, 1), X.split(_COLUMNS, 1), strict=True):
            total = total + (u[rows].conj() * x[columns] + x[rows].conj() * u[columns]).sum(-1) / 2
        return (values * total).sum().real

    values = A.values() if A.layout == torch.sparse_coo else _Values.call(A)
    return Operator(n, A.dtype, A.device, (values,), product, pairing, fast)


class _Values(Function):
    """Those of a CSR tensor. (The derivative of torch's own, 2.13, has no derivative.)"""

    @staticmethod
    def forward(A: Tensor) -> Tensor:
        return A.values().clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        (A,) = inputs
        ctx.shape = A.shape
        save(ctx, A.crow_indices(), A.col_indices())

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        rows, columns = ctx.saved_tensors
        return torch.sparse_csr_tensor(rows, columns, g, ctx.shape)

    @staticmethod
    def push_forward(ctx: Any, dA: Tensor) -> Tensor:
        return dA.values().clone()


def _callable(
    A: Callable[..., Tensor], name: str, n: int, dtype: torch.dtype, device: torch.device, params: tuple[Tensor, ...]
) -> Operator:
    def product(X: Tensor, *params: Tensor) -> Tensor:
        Y = A(X, *params)
        if not isinstance(Y, Tensor) or Y.shape != X.shape or Y.dtype != X.dtype:
            got = f"{tuple(Y.shape)} of {Y.dtype}" if isinstance(Y, Tensor) else type(Y).__name__
            raise ValueError(
                f"{name}(X, *params) must have X's shape and dtype, {tuple(X.shape)} of {X.dtype}, got {got}"
            )
        return Y

    def pairing(U: Tensor, X: Tensor, *params: Tensor) -> Tensor:
        return (U.conj() * product(X, *params)).sum().real

    return Operator(n, dtype, device, params, product, pairing, lambda *params: lambda X: product(X, *params))
