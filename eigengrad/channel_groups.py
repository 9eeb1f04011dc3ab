"""How activations are laid out for whitening: groups of channels, observed many times.

Data of G groups of d channels is ``(B, G, d, M)``: each channel is observed ``B M`` times. Sums over observations are
one matrix product per ``b`` and a sum over B. Images and channels-last images stay where they lie in memory, and the
way back is a view as well.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

__all__ = ["arrange", "arrange_back", "blocks", "parts", "together"]


def blocks(channels: int, d: int) -> Iterator[tuple[slice, int]]:
    """The channels as one block of groups of size d and, where d does not divide them, one smaller group."""
    full = channels - channels % d
    yield slice(0, full), d
    if full < channels:
        yield slice(full, channels), channels - full


def parts(x: Tensor, d: int) -> Iterator[tuple[Tensor, slice, int]]:
    """The channels of ``x (N, C, *)`` in each of the :func:`blocks`, by one split: backward, one concatenation."""
    all_blocks = list(blocks(x.shape[1], d))
    split = x.split([block.stop - block.start for block, _ in all_blocks], dim=1) if len(all_blocks) > 1 else [x]
    for part, (block, size) in zip(split, all_blocks, strict=True):
        yield part, block, size


def arrange(x: Tensor, d: int) -> Tensor:
    """``(N, C, *)`` to ``(B, G, d, M)``, d dividing C.

    Images become ``(N, G, d, positions)``. Where an observation's channels are neighbours in memory, and where images
    are too small for a product of their own, all observations become one axis: ``(1, G, d, N positions)``.
    """
    batch, channels, *positions = x.shape
    if _by_image(x, d):
        return x.reshape(batch, channels // d, d, math.prod(positions))
    rows = x.movedim(1, -1).reshape(batch * math.prod(positions), channels // d, d)
    return rows.movedim(0, -1).unsqueeze(0)


def arrange_back(y: Tensor, x: Tensor, d: int) -> Tensor:
    """The inverse of :func:`arrange`: ``y (B, G, d, M)`` in the shape and memory format of ``x``."""
    if _by_image(x, d):
        return y.reshape(x.shape)
    batch, channels, *positions = x.shape
    back = y.squeeze(0).movedim(-1, 0).reshape(batch, *positions, channels).movedim(-1, 1)
    return back if _channels_last(x) else back.contiguous()


def together(outputs: list[Tensor], x: Tensor) -> Tensor:
    """The channels of all blocks, in the memory format of ``x``."""
    if len(outputs) == 1:
        return outputs[0]
    y = torch.cat(outputs, dim=1)
    return y.movedim(1, -1).contiguous().movedim(-1, 1) if _channels_last(x) else y


def _by_image(x: Tensor, d: int) -> bool:
    return not _channels_last(x) and math.prod(x.shape[2:]) >= d


def _channels_last(x: Tensor) -> bool:
    """By strides, which a slice of channels shares with the whole."""
    return x.dim() > 2 and x.stride(1) == 1 and x.stride(-1) > 1
