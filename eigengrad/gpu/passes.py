"""The passes over data ``torch.ops.eigengrad.{moments, affine, affine_backward}`` on CUDA: any real dtype and layout.

Each reads the data once. Sums are of chunks, which a second launch adds up in order.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from eigengrad.gpu import arguments, kernels
from eigengrad.native import passes as native

__all__ = ["IMPLEMENTATIONS", "takes"]

CHUNK = 512
"""Observations of a chunk at least, where there are so many: several tiles."""
MOST_BLOCKS = 1056
"""Eight for each of the 132 multiprocessors of an H100."""

_Small = list[Tensor | None]
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def takes(data: Tensor) -> bool:
    """Whether the kernels take ``data (B, G, d, M)``, and are there."""
    if data.dtype not in _DTYPES or not 0 < data.shape[2] <= kernels.LARGEST or data.numel() == 0:
        return False
    return all(_is_there(name, data) for name in _OF_DATA)


def moments(data: Tensor, shrinkage: float, eps: float, relative_eps: float) -> tuple[Tensor, ...]:
    """Moments, and what is made of them, in two launches."""
    if not takes(data):
        return native.moments(data, shrinkage, eps, relative_eps)
    _, G, d, _ = data.shape
    size, partial = _size(data), _partial(data)
    mean, matrices = partial.new_empty(G, d, 1), [partial.new_empty(G, d, d) for _ in range(3)]
    finite = partial.new_empty(G, dtype=torch.bool)
    of = arguments.MomentsArguments(
        size, _array(data), *map(_pointer, (partial, mean, *matrices, finite)), shrinkage, eps, relative_eps
    )
    _launch("moments_of_chunks", data, G * size.chunks, of)
    _launch("moments_of_groups", data, G, of)
    return mean, *matrices, finite


def moments_backward(
    gx: Tensor,
    data: Tensor,
    mean: Tensor,
    covariance: Tensor,
    g_mean: Tensor | None,
    g_covariance: Tensor | None,
    g_conditioned: Tensor | None,
    shrinkage: float,
    relative_eps: float,
) -> None:
    """What completes the data's cotangent, in one launch."""
    if not (takes(data) and _alike(gx, data)):
        return native.moments_backward(
            gx, data, mean, covariance, g_mean, g_covariance, g_conditioned, shrinkage, relative_eps
        )
    small = _small(data, (covariance, g_covariance, g_conditioned), (mean, g_mean))
    size = _size(data)
    of = arguments.MomentsBackwardArguments(
        size, _array(data), _array(gx), *map(_pointer, small), shrinkage, relative_eps
    )
    _launch("moments_backward_of_chunks", data, data.shape[1] * size.chunks, of)
    return None


def affine(
    y: Tensor, data: Tensor, matrix: Tensor, centre: Tensor, scale: Tensor | None, offset: Tensor | None
) -> None:
    """An affine map, in one launch."""
    if not (takes(data) and _alike(y, data)):
        return native.affine(y, data, matrix, centre, scale, offset)
    small = _small(data, (matrix,), (centre, scale, offset))
    size = _size(data)
    of = arguments.AffineArguments(size, _array(data), _array(y), *map(_pointer, small))
    _launch("affine_of_chunks", data, data.shape[1] * size.chunks, of)
    return None


def affine_backward(
    gx: Tensor | None, data: Tensor, g: Tensor, matrix: Tensor, centre: Tensor, scale: Tensor | None
) -> tuple[Tensor, ...]:
    """The map's cotangents, in two launches."""
    if not (takes(data) and _alike(g, data) and (gx is None or _alike(gx, data))):
        return native.affine_backward(gx, data, g, matrix, centre, scale)
    small = _small(data, (matrix,), (centre, scale))
    _, G, d, _ = data.shape
    size, partial = _size(data), _partial(data)
    g_matrix, vectors = partial.new_empty(G, d, d), [partial.new_empty(G, d, 1) for _ in range(3)]
    of = arguments.AffineBackwardArguments(
        size,
        _array(data),
        _array(g),
        arguments.PassArray() if gx is None else _array(gx),
        *map(_pointer, (*small, partial, g_matrix, *vectors)),
    )
    _launch("affine_backward_of_chunks", data, G * size.chunks, of)
    _launch("affine_backward_of_groups", data, G, of)
    return g_matrix, *vectors


def update(
    running_mean: Tensor | None,
    running_covariance: Tensor | None,
    count: Tensor | None,
    before: Tensor | None,
    mean: Tensor,
    covariance: Tensor,
    valid: Tensor | None,
    first: int,
    momentum: float,
    together: bool,
) -> None:
    """Running estimates, in one launch."""
    running = [estimate for estimate in (running_mean, running_covariance) if estimate is not None]
    G, d, _ = covariance.shape
    if not (
        0 < d <= kernels.LARGEST
        and G > 0
        and covariance.dtype in (torch.float32, torch.float64)
        and mean.dtype == covariance.dtype
        and all(x.dtype == covariance.dtype and x.stride(-1) == 1 for x in running)
        and _is_there("update_of_groups", covariance)
    ):
        return native.update(
            running_mean, running_covariance, count, before, mean, covariance, valid, first, momentum, together
        )
    mean, covariance = mean.contiguous(), covariance.contiguous()
    valid = None if valid is None else valid.contiguous()
    of = arguments.UpdateArguments(
        *map(_pointer, (running_mean, running_covariance, count, before, mean, covariance, valid)),
        0 if valid is None else len(valid),
        first,
        0 if running_covariance is None else running_covariance.stride(0),
        momentum,
        d,
        together,
    )
    _launch("update_of_groups", covariance, G, of)
    return None


IMPLEMENTATIONS: dict[str, Callable[..., Any]] = {
    "moments": moments,
    "moments_backward": moments_backward,
    "affine": affine,
    "affine_backward": affine_backward,
    "update": update,
}


_OF_DATA = (
    "moments_of_chunks",
    "moments_of_groups",
    "moments_backward_of_chunks",
    "affine_of_chunks",
    "affine_backward_of_chunks",
    "affine_backward_of_groups",
)


def _is_there(name: str, like: Tensor) -> bool:
    launcher = kernels.launcher()
    return launcher is not None and launcher.has(_kernel(name, like), like.device)


def _kernel(name: str, like: Tensor) -> kernels.Kernel:
    """For data ``(B, G, d, M)`` or matrices ``(G, d, d)``."""
    return kernels.of_pass(name, like.shape[2], like.dtype)


def _launch(name: str, data: Tensor, blocks: int, of: Any) -> None:
    launcher = kernels.launcher()
    assert launcher is not None
    launcher.launch(_kernel(name, data), blocks, of, data.device)


def _chunks(data: Tensor) -> int:
    B, G, _, M = data.shape
    return max(1, min(B * M // CHUNK, MOST_BLOCKS // G))


def _size(data: Tensor) -> arguments.PassSize:
    B, _, d, M = data.shape
    return arguments.PassSize(B, M, d, _chunks(data))


def _array(data: Tensor) -> arguments.PassArray:
    return arguments.PassArray(data.data_ptr(), *data.stride())


def _partial(data: Tensor) -> Tensor:
    """Room for what chunks leave behind."""
    _, G, d, _ = data.shape
    working = torch.promote_types(data.dtype, torch.float32)
    return torch.empty(G * _chunks(data), d * d + d, dtype=working, device=data.device)


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _alike(x: Tensor, data: Tensor) -> bool:
    return x.dtype == data.dtype and x.shape == data.shape


def _small(data: Tensor, matrices: tuple[Tensor | None, ...], vectors: tuple[Tensor | None, ...]) -> _Small:
    """Matrices ``(G, d, d)`` and vectors ``(G, d, 1)``, in the working dtype."""
    _, G, d, _ = data.shape
    working = torch.promote_types(data.dtype, torch.float32)
    for given, shape in ((matrices, (G, d, d)), (vectors, (G, d, 1))):
        for x in given:
            if x is not None and (x.shape != shape or x.dtype != working):
                raise RuntimeError(
                    f"eigengrad: a pass over such data wants {shape} of {working}, got {tuple(x.shape)} of {x.dtype}"
                )
    return [None if x is None else x.contiguous() for x in (*matrices, *vectors)]
