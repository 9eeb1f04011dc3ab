"""The operators ``torch.ops.eigengrad``: what each one does, its shape for tracers, and its batching rule.

The compiled kernel implements them on a CPU (``native/operators.cpp``), :mod:`eigengrad.native.reference` everywhere
else. Whatever dispatches through torch, a mode, a compiler, ``vmap``, therefore records or runs the same operator,
with the same bits, and nobody above has to ask what a tensor is.

====================  ==================================================================================================
``eigh``              ascending eigenvalues ``(*, n)`` and eigenvectors ``(*, n, n)`` of Hermitian matrices, by their
                      lower triangle; ``for_function`` as a function of the matrix wants them: see
                      :mod:`eigengrad.native.thresholds`
``root``              ``A^(1/2)`` or ``A^(-1/2)``, its eigenvalues and eigenvectors; eigenvalues of A below ``floor``
                      are taken to be ``floor``
``function``          f(A), the eigenvalues and eigenvectors of A, for the f of a ``kind`` with a ``parameter``
``refine``            eigenvalues and eigenvectors without their errors of first order
``recompose``         ``V diag(x) V^H`` for real x
``pull_back``         cotangents of eigenvectors or of a function of a matrix, as one of the matrix: see :data:`KINDS`
``moments``           mean ``(G, d, 1)`` and covariance ``(G, d, d)`` of data ``(B, G, d, M)``, what it becomes before
                      it is decomposed, and which are finite: see :class:`eigengrad.conditioning.Conditioned`
``moments_backward``  ``gx +=`` the data's cotangent, from those of mean, covariance and the matrix to decompose
``affine``            ``y = scale (matrix (data - centre)) + offset``
``affine_backward``   cotangents of matrix, centre, scale and offset; that of the data is written to gx, where given
``update``            running estimates ``(C,)`` and ``(C, d)`` move toward a batch's, those of groups that are
                      ``valid`` (of several blocks; ours begin with the ``first``), or all or none ``together``, and
                      ``count`` counts it; with ``before``, batches so far, to the average of all
====================  ==================================================================================================

``kernel_always`` takes the compiled kernel where the table would take LAPACK. ``strict`` raises for a matrix without
an eigendecomposition (NaN or infinity in it), which otherwise gives NaN, and itself alone.
"""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

import torch
from torch import Tensor

from eigengrad.arguments import check_square
from eigengrad.native import passes, reference
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
    "moments_backward",
    "pull_back",
    "recompose",
    "refine",
    "root",
    "update",
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
    "moments": "(Tensor data, float shrinkage, float eps, float relative_eps) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    "moments_backward": "(Tensor(a!) gx, Tensor data, Tensor mean, Tensor covariance, Tensor? g_mean, "
    "Tensor? g_covariance, Tensor? g_conditioned, float shrinkage, float relative_eps) -> ()",
    "affine": "(Tensor(a!) y, Tensor data, Tensor matrix, Tensor centre, Tensor? scale, Tensor? offset) -> ()",
    "affine_backward": "(Tensor(a!)? gx, Tensor data, Tensor g, Tensor matrix, Tensor centre, Tensor? scale) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
    "update": "(Tensor(a!)? running_mean, Tensor(b!)? running_covariance, Tensor(c!)? count, Tensor? before, "
    "Tensor mean, Tensor covariance, Tensor? valid, int first, float momentum, bool together) -> ()",
}

_OF_MATRICES = {"eigh": 2, "root": 3, "function": 3, "refine": 2, "recompose": 1, "pull_back": 1}
_OF_DATA = {"moments": 5, "moments_backward": 0, "affine": 0, "affine_backward": 4, "update": 0}
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
    implement(_name, getattr(reference if _name in _OF_MATRICES else passes, _name), "CompositeExplicitAutograd")

eigh = torch.ops.eigengrad.eigh.default
root = torch.ops.eigengrad.root.default
function = torch.ops.eigengrad.function.default
refine = torch.ops.eigengrad.refine.default
recompose = torch.ops.eigengrad.recompose.default
pull_back = torch.ops.eigengrad.pull_back.default
moments = torch.ops.eigengrad.moments.default
moments_backward = torch.ops.eigengrad.moments_backward.default
affine = torch.ops.eigengrad.affine.default
affine_backward = torch.ops.eigengrad.affine_backward.default
update = torch.ops.eigengrad.update.default


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
    "moments": lambda data, *_: (
        _sums(data, 1),
        *(_sums(data, data.shape[2]) for _ in range(3)),
        data.new_empty(data.shape[1], dtype=torch.bool),
    ),
    "moments_backward": lambda *_: None,
    "affine": lambda *_: None,
    "affine_backward": lambda gx, data, g, matrix, centre, scale: (
        matrices_like(matrix),
        *(matrices_like(centre) for _ in range(3)),
    ),
    "update": lambda *_: None,
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
