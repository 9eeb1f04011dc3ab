"""A mode that looks at what functions are given, and at what is asked of their gradients, and says where.

The functions of this package read one triangle and trust the other; differentiate eigenvectors by a rule, whatever the
loss does with their phase or basis; and never wait for a device to look at values. Within :func:`checks` they look.
"""

import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eigengrad.autograd import observer

__all__ = ["checks"]

_HERMITIAN: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("eigh", "topk_eigh", "eigsh", "projector"), ("A", "B")),
    **dict.fromkeys(("sqrtm", "inv_sqrtm", "logm", "expm", "powm", "matrix_function", "spectral_sum"), ("A",)),
    **dict.fromkeys(("bures_distance", "frechet_distance", "optimal_transport_map"), ("A", "B")),
    **dict.fromkeys(("affine_invariant_distance", "log_euclidean_distance", "geometric_mean"), ("A", "B")),
    **dict.fromkeys(("karcher_mean", "bures_barycenter", "lyapunov"), ("A",)),
    "sylvester": ("A", "B"),
    "log_map": ("base", "A"),
    "exp_map": ("base", "S"),
    "parallel_transport": ("S", "A", "B"),
}
"""By function, the arguments that are taken to be Hermitian."""
_EIGENVECTORS = "an eigenvector", "eigenvectors of equal eigenvalues"
_SINGULAR_VECTORS = "a pair of singular vectors", "those of equal singular values"
_NOT_YOURS = str(Path(__file__).parents[1]), str(Path(torch.__file__).parent)
_UNITS, _UNITS_OF_HALF = 1000.0, 4.0
"""Of rounding: a matrix is Hermitian, and eigenvalues are equal, up to so many, relative to the largest."""


@contextmanager
def checks() -> Iterator[None]:
    """Within this context, in this thread, every public function looks at its arguments and at its cotangents.

    * Tensors are finite, and matrices Hermitian, up to 1000 units of rounding (4 of half precision) relative to their
      largest entry, where a function takes them to be, ``B`` and those of :mod:`eigengrad.spd` too: a matrix that is
      not symmetric has no business in ``sqrtm`` or ``logm`` here.
    * In the backward pass, the cotangent of the eigenvectors of ``eigh``, ``topk_eigh`` and ``eigsh``, and that of the
      singular vectors of ``svd`` on both sides together, asks for nothing undefined: no change of a complex vector's
      phase, and no rotation among the vectors of equal values, beyond the square root of the machine epsilon relative
      to the cotangent's size.

    What is found is an error that names the function, the matrix and the line of your code that called it. To look at
    values makes a device wait, so this is for tests and for the first steps of a training, not for all of it. Off, it
    costs nothing. Compiled and traced functions, fakes, sparse tensors (at which ``eigsh`` looks itself), tensors
    under ``torch.func``, and what :func:`eigengrad.analysis.inspect` is asked are not looked at. Nor is it seen that
    ``topk_eigh`` or ``projector`` cuts a tie. Matrices that are not finite are an error, whatever ``errors`` says.

    Raises:
        ValueError: within the context, for what is found; in the backward pass too, wherever that runs.

    Example:
        >>> import torch, eigengrad as eg
        >>> with eg.analysis.checks():  # doctest: +ELLIPSIS
        ...     eg.sqrtm(torch.tensor([[2.0, 1.0], [0.0, 2.0]]))
        Traceback (most recent call last):
        ValueError: sqrtm at ...: A must be Hermitian, but A - A^H is 0.5 of A's largest entry; sqrtm reads ...
    """
    token = observer.set(_observed)
    try:
        yield
    finally:
        observer.reset(token)


def _observed(function: Callable[..., Any], name: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """The result of a call, looked at before and after."""
    site = f"{name} at {_caller()}"
    by_position = zip(inspect.signature(function).parameters, arguments, strict=False)
    for label, argument in {**dict(by_position), **options}.items():
        if _has_values(argument):
            _check_finite(argument, label, site)
            if label in _HERMITIAN.get(name, ()):
                _check_hermitian(argument, label, name, site)
    result = function(*arguments, **options)
    if name in ("eigh", "topk_eigh", "eigsh"):
        L, V = result
        _watch([V], lambda g: _check_cotangents([(V.detach(), g[0])], L.detach(), *_EIGENVECTORS, site))
    elif name == "svd":
        (U, S, Vh), k = result, result.S.shape[-1]

        def look(g: Sequence[Tensor | None]) -> None:
            of_U = None if g[0] is None else g[0][..., :k]
            of_V = None if g[1] is None else g[1].mH[..., :k]
            pairs = [(U.detach()[..., :k], of_U), (Vh.detach().mH[..., :k], of_V)]
            _check_cotangents(pairs, S.detach(), *_SINGULAR_VECTORS, site)

        _watch([U, Vh], look)
    return result


def _caller() -> str:
    """The line that called the public function, outside of this package and of torch."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_NOT_YOURS):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def _has_values(value: object) -> bool:
    return (
        isinstance(value, Tensor)
        and value.numel() > 0
        and (value.is_floating_point() or value.is_complex())
        and value.device.type != "meta"
        and value.layout == torch.strided
        and type(value) in (Tensor, torch.nn.Parameter)
        and not torch._C._are_functorch_transforms_active()
    )


def _check_finite(A: Tensor, label: str, site: str) -> None:
    finite = A.detach().isfinite().flatten(-2).all(-1) if A.dim() > 1 else A.detach().isfinite().all()
    if not finite.all():
        raise ValueError(f"{site}: {_first(~finite, label)} holds NaN or infinity")


def _check_hermitian(A: Tensor, label: str, name: str, site: str) -> None:
    A = A.detach()
    if A.dim() < 2 or A.shape[-1] != A.shape[-2]:
        return  # for the function itself to refuse
    share = (A - A.mH).abs().amax((-2, -1)) / A.abs().amax((-2, -1)).clamp_min(torch.finfo(A.dtype).tiny)
    bad = share > _units(A.dtype) * torch.finfo(A.dtype).eps
    if bad.any():
        trusted = "takes that for granted" if name == "eigsh" else "reads the lower triangle alone"
        raise ValueError(
            f"{site}: {_first(bad, label)} must be Hermitian, but {label} - {label}^H is "
            f"{share[bad].flatten()[0].item():.2g} of {label}'s largest entry; {name} {trusted}. "
            f"Pass ({label} + {label}.mH) / 2, or use torch.linalg"
        )


def _watch(vectors: list[Tensor], look: Callable[[Sequence[Tensor | None]], None]) -> None:
    """Have their cotangents looked at in the backward pass, together."""
    if all(_has_values(V) and V.requires_grad for V in vectors):
        torch.autograd.graph.register_multi_grad_hook(vectors, look)


def _check_cotangents(pairs: list[tuple[Tensor, Tensor | None]], L: Tensor, one: str, several: str, site: str) -> None:
    """Of vectors V ``(*, n, k)`` that turn together, each with its cotangent, if the loss has any: nothing along
    ``i v``, and within ties nothing along ``V W`` for skew W."""
    given = [(V, g) for V, g in pairs if g is not None]
    if not given:
        return
    if not all(g.isfinite().all() for _, g in given):
        raise ValueError(f"{site}: the cotangent of the vectors, which the loss has sent back, is not finite")
    units, eps, tiny = _units(L.dtype), torch.finfo(L.dtype).eps, torch.finfo(torch.float32).tiny
    given = [(_in_single(V), _in_single(g)) for V, g in given]
    L = _in_single(L)
    largest = torch.stack([g.abs().amax((-2, -1)) for _, g in given]).amax(0).clamp_min(torch.finfo(L.dtype).tiny)
    P, square = torch.zeros((), device=L.device), torch.zeros((), device=L.device)
    for V, g in given:
        g = g / largest[..., None, None]  # whose norm neither overflows nor vanishes
        lengths = torch.linalg.vector_norm(V, dim=-2).amax(-1)[..., None, None]  # 1 without B
        P = P + (V / lengths.clamp_min(tiny)).mH @ g
        square = square + torch.linalg.matrix_norm(g) ** 2
    turn, size = (P - P.mH) / 2, square.sqrt().clamp_min(tiny)
    same = torch.eye(L.shape[-1], dtype=torch.bool, device=L.device)
    gap = (L.unsqueeze(-1) - L.unsqueeze(-2)).abs()
    tied = (gap <= units * eps * L.abs().amax(-1)[..., None, None]) & ~same
    for found, on, cure in (
        (turn.diagonal(dim1=-2, dim2=-1).abs().amax(-1), f"the phase of {one}", "fix the phase in the loss"),
        (
            turn.abs().masked_fill(~tied, 0.0).amax((-2, -1)),
            f"the basis among {several}",
            "use a function of the matrix, or the projector on all of them",
        ),
    ):
        share = found / size
        bad = share > eps**0.5
        if bad.any():
            raise ValueError(
                f"{site}: the loss depends on {on}, which is arbitrary: in {_first(bad, 'A')}, that is "
                f"{share[bad].flatten()[0].item():.2g} of the gradient's size; {cure}"
            )


def _in_single(X: Tensor) -> Tensor:
    return X.float() if X.dtype.itemsize == 2 else X


def _units(dtype: torch.dtype) -> float:
    return _UNITS if dtype.itemsize > 2 else _UNITS_OF_HALF


def _first(bad: Tensor, label: str) -> str:
    """The first matrix of a batch of that name for which ``bad`` is true."""
    if bad.dim() == 0:
        return label
    which = tuple(bad.nonzero()[0].tolist()) if bad.dim() > 1 else int(bad.nonzero()[0])
    return f"matrix {which} of the batch" if label == "A" else f"matrix {which} of {label}"
