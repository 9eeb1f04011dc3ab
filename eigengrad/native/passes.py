"""The compiled passes over data: moments, an affine map and its backward.

Data is ``(B, G, d, M)``, as in :mod:`eigengrad.nn.functional.channel_groups`, with contiguous observations: images as
a convolution returns them, or a slice of their channels. The data is cut into chunks that stay in a cache; what a pass
sums over observations comes back chunk by chunk, to be summed here: results do not depend on the number of threads.
"""

import ctypes
from typing import Any

import torch
from torch import Tensor

from eigengrad import native

__all__ = ["affine", "affine_backward", "moments", "possible"]

MOST_CHANNELS = 256
"""Of a group: beyond, a panel of the data no longer fits the cache."""


def possible(*arrays: Tensor) -> bool:
    """Whether the passes could work on arrays ``(B, G, d, M)``: eager, real, on a CPU, with contiguous rows."""
    if not (native.available() and native.eager(*arrays)):
        return False
    _, _, d, M = arrays[0].shape
    return 0 < d <= MOST_CHANNELS and all(
        x.dtype in native.SUFFIX and x.is_cpu and x.numel() > 0 and x.stride()[1:] == (d * M, M, 1) for x in arrays
    )


def moments(data: Tensor) -> tuple[Tensor, Tensor]:
    """Mean ``(G, d, 1)`` and scatter about it ``(G, d, d)``, not yet divided by the number of observations.

    Each chunk's are about its own mean; they are merged as Chan, Golub and LeVeque do (*Updating Formulae*, 1979).
    """
    _, G, d, _ = data.shape
    sizes, chunks = _sizes(data, data)
    counts, means = data.new_empty(chunks), data.new_empty(chunks, G, d)
    scatters = data.new_empty(chunks, G, d, d)
    pointers = (counts.data_ptr(), means.data_ptr(), scatters.data_ptr())
    native.run("moments", data.dtype, data.data_ptr(), sizes, d, *pointers)
    weights = (counts / counts.sum()).view(chunks, 1, 1)
    mean = (means * weights).sum(dim=0)
    away = (means - mean) * counts.sqrt().view(chunks, 1, 1)
    scatter = scatters.sum(dim=0) + torch.einsum("cgi,cgj->gij", away, away)
    return mean.unsqueeze(-1), scatter


def affine(data: Tensor, T: Tensor, centre: Tensor, offset: Tensor, y: Tensor, *, add: bool = False) -> None:
    """``y = T (data - centre) + offset``, or ``y +=`` the same, for T ``(G, d, d)`` and the others ``(G, d, 1)``."""
    sizes, _ = _sizes(data, y)
    T, centre, offset = T.contiguous(), centre.contiguous(), offset.contiguous()
    pointers = (T.data_ptr(), centre.data_ptr(), offset.data_ptr(), y.data_ptr())
    native.run("affine", data.dtype, data.data_ptr(), sizes, data.shape[2], *pointers, int(add))


def affine_backward(data: Tensor, g: Tensor, T: Tensor, centre: Tensor, gx: Tensor | None) -> tuple[Tensor, Tensor]:
    """The sums ``g (data - centre)^T (G, d, d)`` and ``g (G, d, 1)``; and ``gx = T^T g``, where ``gx`` is given."""
    _, G, d, _ = data.shape
    sizes, chunks = _sizes(data, g)
    T, centre = T.contiguous(), centre.contiguous()
    g_matrices, g_offsets = data.new_empty(chunks, G, d, d), data.new_empty(chunks, G, d)
    results = (None if gx is None else gx.data_ptr(), g_matrices.data_ptr(), g_offsets.data_ptr())
    inputs = (g.data_ptr(), T.data_ptr(), centre.data_ptr())
    native.run("affine_backward", data.dtype, data.data_ptr(), sizes, d, *inputs, *results)
    return g_matrices.sum(dim=0), g_offsets.sum(dim=0).unsqueeze(-1)


def _sizes(data: Tensor, other: Tensor) -> tuple[Any, int]:
    """What the passes ask of shapes and strides, and the number of chunks."""
    B, G, d, M = data.shape
    sizes = (ctypes.c_long * 5)(B, G, M, data.stride(0), other.stride(0))
    return sizes, native.library().eigengrad_chunks(sizes, d * data.element_size())
