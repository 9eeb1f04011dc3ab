"""How activations are laid out for whitening: groups of channels, observed many times.

Data of G groups of d channels is ``(B, G, d, M)``: each channel is observed ``B M`` times. Sums over observations are
one matrix product per ``b`` and a sum over B. Images and channels-last images stay where they lie in memory, and the
way back is a view as well.
"""

import dataclasses
import math
from collections.abc import Iterator

import torch
from torch import Tensor

__all__ = ["Layout", "blocks", "parts", "together"]


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


@dataclasses.dataclass(frozen=True)
class Layout:
    """How activations ``(N, C, *)`` are arranged as groups of d channels, d dividing C, and back.

    Images become ``(N, G, d, positions)``. Where an observation's channels are neighbours in memory, and where images
    are too small for a product of their own, all observations become one axis: ``(1, G, d, N positions)``.
    """

    shape: torch.Size
    """Of the activations."""
    d: int
    by_image: bool
    channels_last: bool

    @staticmethod
    def of(x: Tensor, d: int) -> "Layout":
        """The layout of activations like ``x``."""
        channels_last = _channels_last(x)
        return Layout(x.shape, d, not channels_last and math.prod(x.shape[2:]) >= d, channels_last)

    def arrange(self, x: Tensor) -> Tensor:
        """``(N, C, *)`` to ``(B, G, d, M)``."""
        batch, channels, *positions = self.shape
        if self.by_image:
            return x.reshape(batch, channels // self.d, self.d, math.prod(positions))
        rows = x.movedim(1, -1).reshape(batch * math.prod(positions), channels // self.d, self.d)
        return rows.movedim(0, -1).unsqueeze(0)

    def arrange_back(self, y: Tensor) -> Tensor:
        """The inverse of :meth:`arrange`, in the memory format of the activations."""
        if self.by_image:
            return y.reshape(self.shape)
        batch, channels, *positions = self.shape
        rows = y.squeeze(0).movedim(-1, 0).reshape(batch, *positions, channels)
        return rows.contiguous().movedim(-1, 1) if self.channels_last else rows.movedim(-1, 1).contiguous()

    def empty(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Memory for activations, of the dtype and device of ``like``, and the same arranged, for :meth:`filled`.

        The former is no view of anything: where a later layer changes a view in place, autograd copies it twice.
        """
        dims = range(len(self.shape))
        order = (0, *dims[2:], 1) if self.channels_last else tuple(dims)
        x = torch.empty_permuted(self.shape, order, dtype=like.dtype, device=like.device)
        return x, self.arrange(x)

    def filled(self, x: Tensor, y: Tensor) -> Tensor:
        """``x`` with what was written to ``y``, both of :meth:`empty`."""
        shared = self.by_image or self.channels_last or math.prod(self.shape[2:]) == 1
        return x if shared else x.copy_(self.arrange_back(y))

    def widened(self, size: int) -> "Layout":
        """With ``size`` times as many groups."""
        batch, channels, *positions = self.shape
        return dataclasses.replace(self, shape=torch.Size((batch, size * channels, *positions)))


def together(outputs: list[Tensor], x: Tensor) -> Tensor:
    """The channels of all blocks, in the memory format of ``x``."""
    if len(outputs) == 1:
        return outputs[0]
    y = torch.cat(outputs, dim=1)
    return y.movedim(1, -1).contiguous().movedim(-1, 1) if _channels_last(x) else y


def _channels_last(x: Tensor) -> bool:
    """By strides, which a slice of channels shares with the whole."""
    return x.dim() > 2 and x.stride(1) == 1 and x.stride(-1) > 1
