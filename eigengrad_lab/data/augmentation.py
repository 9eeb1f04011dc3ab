"""Random crops and mirrored images, drawn on the training device."""

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Crops", "draw_crops"]


@dataclass(frozen=True)
class Crops:
    """What augmentation does to each of some images, ``(count, height)`` rows and ``(count, width)`` columns."""

    rows: Tensor
    columns: Tensor

    def __getitem__(self, chosen: slice) -> "Crops":
        return Crops(self.rows[chosen], self.columns[chosen])

    def of(self, images: Tensor, pad: int) -> Tensor:
        """The crops of ``images (count, C, H, W)``, each padded by ``pad`` zeros on every side."""
        padded = torch.nn.functional.pad(images, (pad, pad, pad, pad))
        sample = torch.arange(len(images), device=images.device)[:, None, None]
        return padded[sample, :, self.rows[:, :, None], self.columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


def draw_crops(count: int, height: int, width: int, *, pad: int, flip: bool, generator: torch.Generator) -> Crops:
    """A random crop of each padded image and, with ``flip``, a mirrored half of them; on the generator's device."""
    device = generator.device

    def draw(high: int) -> Tensor:
        return torch.randint(high, (count, 1), generator=generator, device=device)

    rows = draw(2 * pad + 1) + torch.arange(height, device=device)
    columns = draw(2 * pad + 1) + torch.arange(width, device=device)
    if flip:
        columns = torch.where(draw(2).bool(), columns.flip(1), columns)
    return Crops(rows, columns)
