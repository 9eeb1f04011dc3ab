"""The operators ``torch.ops.eigengrad``: what each one does, its shape for tracers, and its batching rule.

The compiled kernel implements them on a CPU (``native/operators.cpp``), :mod:`eigengrad.native.reference` everywhere
else. Whatever dispatches through torch, a mode, a compiler, ``vmap``, therefore records or runs the same operator,
with the same bits, and nobody above has to ask what a tensor is.

===================  ===================================================================================================
``eigh``             ascending eigenvalues ``(*, n)`` and eigenvectors ``(*, n, n)`` of Hermitian matrices, by their
                     lower triangle; ``for_function`` as a function of the matrix wants them: see
                     :mod:`eigengrad.native.thresholds`
``root``             ``A^(1/2)`` or ``A^(-1/2)``, its eigenvalues and eigenvectors; eigenvalues of A below ``floor`` are
                     taken to be ``floor``
``function``         f(A), the eigenvalues and eigenvectors of A, for the f of a ``kind`` with a ``parameter``
``refine``           eigenvalues and eigenvectors without their errors of first order
``recompose``        ``V diag(x) V^H`` for real x
``pull_back``        cotangents of eigenvectors or of a function of a matrix, as one of the matrix: see :data:`KINDS`
``moments``          mean ``(G, d, 1)`` of data ``(B, G, d, M)``, and scatter about it ``(G, d, d)``
``affine``           ``y = T (data - centre) + offset``, or ``y +=`` the same
``affine_backward``  the sums ``g (data - centre)^T (G, d, d)`` and ``g (G, d, 1)``; ``gx = T^T g`` where gx is given
===================  ===================================================================================================

``kernel_always`` takes the compiled kernel where the table would take LAPACK. ``strict`` raises for a matrix without
an eigendecomposition (NaN or infinity in it), which otherwise gives NaN, and itself alone.
"""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

import torch
from torch import Tensor

from eigengrad.arguments import check_square
from eigengrad.native import reference
from eigengrad.native.reference import KINDS

__all__ = [
    "KINDS",
    "affine",
    "affine_backward",
    "eigh",
    "function",
    "implement",
    "matrices_like",
    "moments",
    "pull_back",
    "recompose",
    "refine",
    "root",
    "values_like",
    "vectors_like",
]

_SCHEMAS = {
    "eigh": "(Tensor A, bool kernel_always, bool for_function, bool strict) -> (Tensor, Tensor)",
    "root": "(Tensor A, bool inverse, float floor, bool kernel_always, bool strict) -> (Tensor, Tensor, Tensor)",
    "function": "(Tensor A, int kind, float parameter, bool kernel_always, bool strict) -> (Tensor, Tensor, Tensor)",
    "refine": "(Tensor A, Tensor V) -> (Tensor, Tensor)",
    "recompose": "(Tensor V, Tensor x) -> Tensor",
    "pull_back": "(Tensor V, Tensor G, Tensor weights, Tensor? diagonal, int kind, float parameter=0.0, "
    "int major_terms=0, int minor_terms=0) -> Tensor",
    "moments": "(Tensor data) -> (Tensor, Tensor)",
    "affine": "(Tensor(a!) y, Tensor data, Tensor T, Tensor centre, Tensor offset, bool add) -> ()",
    "affine_backward": "(Tensor(a!)? gx, Tensor data, Tensor g, Tensor T, Tensor centre) -> (Tensor, Tensor)",
}

_OF_MATRICES = {"eigh": 2, "root": 3, "function": 3, "refine": 2, "recompose": 1, "pull_back": 1}
_OF_DATA = {"moments": 2, "affine": 0, "affine_backward": 2}
"""How many results they have."""

P = ParamSpec("P")
T = TypeVar("T")


def _with_lazy_conjugates(function: Callable[P, T]) -> Callable[P, T]:
    """``function`` with torch's marks for conjugates and signs heeded.

    A compiled graph (AOTAutograd, torch 2.13) runs an operator with both switched off, once its arguments are resolved;
    ``x + x.mH`` inside of it then comes to ``x + x.mT``.
    """

    @functools.wraps(function)
    def heeding(*arguments: P.args, **options: P.kwargs) -> T:
        excluded = torch._C._dispatch_tls_local_exclude_set()
        if not excluded.has(torch._C.DispatchKey.Conjugate):
            return function(*arguments, **options)
        kept = excluded.remove(torch._C.DispatchKey.Conjugate).remove(torch._C.DispatchKey.Negative)
        with torch._C._ForceDispatchKeyGuard(torch._C._dispatch_tls_local_include_set(), kept):
            return function(*arguments, **options)

    return heeding


def _of_matrices(function: Callable[P, T]) -> Callable[P, T]:
    """``function`` of square matrices of a dtype that LAPACK has, as the kernel asks for it."""

    @functools.wraps(function)
    def checked(*arguments: P.args, **options: P.kwargs) -> T:
        check_square(cast("Tensor", arguments[0]), "the first argument")
        return function(*arguments, **options)

    return checked


_library = torch.library.Library("eigengrad", "FRAGMENT")


def implement(name: str, function: Callable[..., Any], key: str) -> None:
    """Make ``function`` what an operator does on one kind of device, by torch's dispatch key for it."""
    function = _with_lazy_conjugates(_of_matrices(function) if name in _OF_MATRICES else function)
    _library.impl(name, function, key)


for _name, _schema in _SCHEMAS.items():
    _library.define(_name + _schema, tags=(torch.Tag.pt2_compliant_tag,))
    implement(_name, getattr(reference, _name), "CompositeExplicitAutograd")

eigh = torch.ops.eigengrad.eigh.default
root = torch.ops.eigengrad.root.default
function = torch.ops.eigengrad.function.default
refine = torch.ops.eigengrad.refine.default
recompose = torch.ops.eigengrad.recompose.default
pull_back = torch.ops.eigengrad.pull_back.default
moments = torch.ops.eigengrad.moments.default
affine = torch.ops.eigengrad.affine.default
affine_backward = torch.ops.eigengrad.affine_backward.default


def values_like(A: Tensor) -> Tensor:
    """Room for the eigenvalues of A."""
    return A.new_empty(A.shape[:-1], dtype=A.dtype.to_real())


def vectors_like(A: Tensor) -> Tensor:
    """Room for eigenvectors that are contiguous each, as ``torch.linalg.eigh`` returns them, and no view."""
    *batch, n, _ = A.shape
    steps = torch.empty((*batch, n, n), device="meta").stride()
    return torch.empty_strided(A.shape, (*steps[:-2], 1, max(n, 1)), dtype=A.dtype, device=A.device)


def matrices_like(A: Tensor) -> Tensor:
    """Room for matrices as A's, row by row."""
    return torch.empty_like(A, memory_format=torch.contiguous_format)


def _sums(data: Tensor, columns: int) -> Tensor:
    return data.new_empty((*data.shape[1:3], columns), dtype=torch.promote_types(data.dtype, torch.float32))


_FAKES: dict[str, Callable[..., Any]] = {
    "eigh": lambda A, *_: (values_like(A), vectors_like(A)),
    "root": lambda A, *_: (matrices_like(A), values_like(A), vectors_like(A)),
    "function": lambda A, *_: (matrices_like(A), values_like(A), vectors_like(A)),
    "refine": lambda A, V: (values_like(A), vectors_like(A)),
    "recompose": lambda V, x: matrices_like(V),
    "pull_back": lambda V, *_: matrices_like(V),
    "moments": lambda data: (_sums(data, 1), _sums(data, data.shape[2])),
    "affine": lambda *_: None,
    "affine_backward": lambda gx, data, g, T, centre: (matrices_like(T), matrices_like(centre)),
}
for _name, _fake in _FAKES.items():
    _fake = _of_matrices(_fake) if _name in _OF_MATRICES else _fake
    torch.library.register_fake(f"eigengrad::{_name}", _fake, lib=_library)


def _batches_of_matrices(operator: Any, results: int) -> Callable[..., Any]:
    """The batching rule of operators on ``(*, n, n)``: one more batch dimension, in front."""

    def rule(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Any, Any]:
        folded = [
            argument
            if not isinstance(argument, Tensor)
            else argument.expand(info.batch_size, *argument.shape)
            if dim is None
            else argument.movedim(dim, 0)
            for argument, dim in zip(arguments, in_dims, strict=True)
        ]
        return operator(*folded), (0,) * results if results > 1 else 0

    return rule


def _one_by_one(operator: Any, results: int) -> Callable[..., Any]:
    """The batching rule of passes over data, which :mod:`eigengrad.nn.functional.moments` gives them as more groups."""

    def rule(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Any, Any]:
        each = [
            operator(
                *(
                    argument if dim is None else argument.select(dim, index)
                    for argument, dim in zip(arguments, in_dims, strict=True)
                )
            )
            for index in range(info.batch_size)
        ]
        return (tuple(map(torch.stack, zip(*each, strict=True))), (0,) * results) if results else (None, None)

    return rule


for _name, _results in _OF_MATRICES.items():
    _operator = getattr(torch.ops.eigengrad, _name).default
    torch.library.register_vmap(_operator, _batches_of_matrices(_operator, _results), lib=_library)
for _name, _results in _OF_DATA.items():
    _operator = getattr(torch.ops.eigengrad, _name).default
    torch.library.register_vmap(_operator, _one_by_one(_operator, _results), lib=_library)
