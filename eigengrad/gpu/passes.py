"""The passes over data ``torch.ops.eigengrad.{moments, affine, affine_backward}`` on CUDA: any real dtype and layout.

Each reads the data once. Sums are of chunks, which a second launch adds up in order.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from eigengrad.gpu import arguments, kernels
from eigengrad.native import reference

__all__ = ["IMPLEMENTATIONS", "takes"]

CHUNK = 512
"""Observations of a chunk at least, where there are so many: several tiles."""
MOST_BLOCKS = 1056
"""Eight for each of the 132 multiprocessors of an H100."""

_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def takes(data: Tensor) -> bool:
    """Whether the kernels take ``data (B, G, d, M)``, and are there."""
    if data.dtype not in _DTYPES or not 0 < data.shape[2] <= kernels.LARGEST or data.numel() == 0:
        return False
    launcher = kernels.launcher()
    return launcher is not None and all(
        launcher.has(kernels.of_pass(name, data.shape[2], data.dtype), data.device)
        for name in (
            "moments_of_chunks",
            "moments_of_groups",
            "affine_of_chunks",
            "affine_backward_of_chunks",
            "sums_of_groups",
        )
    )


def moments(data: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and scatter, in two launches."""
    if not takes(data):
        return reference.moments(data)
    _, G, d, _ = data.shape
    size, partial = _size(data), _partial(data)
    mean, scatter = partial.new_empty(G, d, 1), partial.new_empty(G, d, d)
    of = arguments.MomentsArguments(size, _array(data), partial.data_ptr(), mean.data_ptr(), scatter.data_ptr())
    _launch("moments_of_chunks", data, G * size.chunks, of)
    _launch("moments_of_groups", data, G, of)
    return mean, scatter


def affine(y: Tensor, data: Tensor, T: Tensor, centre: Tensor, offset: Tensor, add: bool) -> None:
    """An affine map, in one launch."""
    if not (takes(data) and y.dtype == data.dtype and y.shape == data.shape):
        return reference.affine(y, data, T, centre, offset, add)
    T, centre, offset = _small(data, T, centre, offset)
    size = _size(data)
    of = arguments.AffineArguments(
        size, _array(data), _array(y), T.data_ptr(), centre.data_ptr(), offset.data_ptr(), add
    )
    _launch("affine_of_chunks", data, data.shape[1] * size.chunks, of)
    return None


def affine_backward(gx: Tensor | None, data: Tensor, g: Tensor, T: Tensor, centre: Tensor) -> tuple[Tensor, Tensor]:
    """The map's cotangents, in two launches."""
    alike = all(x.dtype == data.dtype and x.shape == data.shape for x in (g, gx) if x is not None)
    if not (takes(data) and alike):
        return reference.affine_backward(gx, data, g, T, centre)
    T, centre = _small(data, T, centre)
    _, G, d, _ = data.shape
    size, partial = _size(data), _partial(data)
    g_matrix, g_offset = partial.new_empty(G, d, d), partial.new_empty(G, d, 1)
    of = arguments.AffineBackwardArguments(
        size,
        _array(data),
        _array(g),
        arguments.PassArray() if gx is None else _array(gx),
        T.data_ptr(),
        centre.data_ptr(),
        partial.data_ptr(),
        g_matrix.data_ptr(),
        g_offset.data_ptr(),
    )
    _launch("affine_backward_of_chunks", data, G * size.chunks, of)
    _launch("sums_of_groups", data, G, of)
    return g_matrix, g_offset


IMPLEMENTATIONS: dict[str, Callable[..., Any]] = {
    "moments": moments,
    "affine": affine,
    "affine_backward": affine_backward,
}


def _launch(name: str, data: Tensor, blocks: int, of: Any) -> None:
    launcher = kernels.launcher()
    assert launcher is not None
    launcher.launch(kernels.of_pass(name, data.shape[2], data.dtype), blocks, of, data.device)


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


def _small(data: Tensor, T: Tensor, *vectors: Tensor) -> tuple[Tensor, ...]:
    """Matrices ``(G, d, d)`` and vectors ``(G, d, 1)``, in the working dtype."""
    _, G, d, _ = data.shape
    shapes = ((G, d, d), *[(G, d, 1)] * len(vectors))
    working = torch.promote_types(data.dtype, torch.float32)
    for x, shape in zip((T, *vectors), shapes, strict=True):
        if x.shape != shape or x.dtype != working:
            raise RuntimeError(
                f"eigengrad: a pass over such data wants {shape} of {working}, got {tuple(x.shape)} of {x.dtype}"
            )
    return tuple(x.contiguous() for x in (T, *vectors))
