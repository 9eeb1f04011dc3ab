"""Data sets as tensors: scikit-learn's digits, which come with it, and image sets in the hub's layout.

Images are held as uint8 on the training device; standardisation and augmentation happen there, a batch at a time.
"""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eigengrad_lab.config import UsageError

__all__ = ["Crops", "ImageData", "canonical_name", "draw_crops", "load"]

HUB_NAMES = {"cifar10": "uoft-cs/cifar10", "cifar100": "uoft-cs/cifar100"}
SUBSET_SEED = 0
"""Subsets are the same images in every run, whatever the run's own seed."""


@dataclass(frozen=True)
class ImageData:
    """Training and test images ``(N, channels, height, width)`` of uint8, labels ``(N,)``, and how to augment them."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    classes: int
    pad: int
    """Pixels of zeros around an image before a crop of its own size is taken."""
    flip: bool
    """Whether a mirrored image keeps its label: true of photographs, not of digits."""

    def to(self, device: torch.device) -> "ImageData":
        """The same data on a device."""
        return replace(
            self,
            train_images=self.train_images.to(device),
            train_labels=self.train_labels.to(device),
            test_images=self.test_images.to(device),
            test_labels=self.test_labels.to(device),
        )

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each channel over the training set, ``(1, channels, 1, 1)``."""
        channels = self.train_images.shape[1]
        per_channel = [torch.std_mean(self.train_images[:, c].float()) for c in range(channels)]
        std, mean = (torch.stack(values).view(1, channels, 1, 1) for values in zip(*per_channel, strict=True))
        return mean, std


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


def canonical_name(name: str) -> str:
    """The name of a data set in records: a folder by its own name and a hash of its files' names and sizes.

    Where a folder lies is no part of a run's identity; what it holds is.
    """
    folder = Path(name)
    if name == "digits" or not folder.is_dir():
        return name
    files = sorted((file.relative_to(folder).as_posix(), file.stat().st_size) for file in folder.rglob("*.parquet"))
    return f"{folder.resolve().name}-{hashlib.sha256(repr(files).encode()).hexdigest()[:6]}"


def load(name: str, *, train_images: int | None = None, test_images: int | None = None) -> ImageData:
    """A data set by name.

    Args:
        name: ``"digits"``; ``"cifar10"`` or ``"cifar100"``; any image data set's ``owner/name`` on the hub; or a folder
            that holds one in the hub's layout, ``train-*.parquet`` and ``test-*.parquet`` at any depth.
        train_images: size of a fixed random subset of the training images.
        test_images: the same for the test images.

    Raises:
        UsageError: if there is no such data set, or it has no image and label columns.
    """
    if name == "digits":
        return _load_digits(train_images, test_images)
    return _load_images(_open(name), train_images, test_images)


def _load_digits(train_images: int | None, test_images: int | None) -> ImageData:
    """1,797 scans of 8x8 pixels, a fifth of each class for testing."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    split = train_test_split(images, labels, test_size=0.2, stratify=labels, random_state=SUBSET_SEED)
    train_x, test_x, train_y, test_y = (torch.from_numpy(array) for array in split)
    train, test = _subset(len(train_y), train_images), _subset(len(test_y), test_images)
    return ImageData(
        train_x.to(torch.uint8).view(-1, 1, 8, 8)[train],
        train_y.long()[train],
        test_x.to(torch.uint8).view(-1, 1, 8, 8)[test],
        test_y.long()[test],
        classes=10,
        pad=1,
        flip=False,
    )


def _open(name: str) -> Any:
    """The ``datasets.DatasetDict`` of a hub name or of a folder in the hub's layout."""
    import datasets

    folder = Path(name)
    if folder.is_dir():
        files = {split: sorted(str(f) for f in folder.rglob(f"{split}*.parquet")) for split in ("train", "test")}
        if missing := [split for split, found in files.items() if not found]:
            raise UsageError(f"--data {name}: the folder holds no {missing[0]}-*.parquet; is it a data set's root?")
        try:
            return datasets.load_dataset("parquet", data_files=files)
        except Exception as error:  # the library raises many kinds for files that are not what they seem
            raise UsageError(f"--data {name}: cannot read its parquet files: {error}") from error
    if name not in HUB_NAMES and "/" not in name:
        raise UsageError(
            f"--data {name!r}: no such folder; known names are digits, {', '.join(HUB_NAMES)}, or owner/name"
        )
    try:
        return datasets.load_dataset(HUB_NAMES.get(name, name))
    except Exception as error:  # no network, no such data set, a gated one: the library's message tells which
        raise UsageError(f"--data {name}: neither a folder here nor to be had from the hub: {error}") from error


def _load_images(splits: Any, train_images: int | None, test_images: int | None) -> ImageData:
    """Decoded images of both splits; colour photographs, so a pad of 4 and mirroring, as the paper does."""
    if missing := [split for split in ("train", "test") if split not in splits]:
        raise UsageError(f"--data: no split {missing[0]!r}, only {', '.join(splits)}")
    train, labels = _decode(splits["train"], train_images)
    test, test_labels = _decode(splits["test"], test_images)
    classes = int(max(labels.max(), test_labels.max())) + 1
    return ImageData(train, labels, test, test_labels, classes=classes, pad=4, flip=True)


def _decode(split: Any, count: int | None) -> tuple[Tensor, Tensor]:
    """Images ``(N, 3, H, W)`` and labels ``(N,)`` of the chosen rows."""
    image_column = _column(split, ("img", "image"))
    label_column = _column(split, ("label", "fine_label"))
    rows = split.select(_subset(len(split), count).tolist())
    images = [np.asarray(image.convert("RGB")) for image in rows[image_column]]
    if len({image.shape for image in images}) != 1:
        raise UsageError("--data: images of several sizes; this laboratory trains on images of one size")
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous(), torch.tensor(rows[label_column])


def _column(split: Any, names: tuple[str, ...]) -> str:
    for name in names:
        if name in split.column_names:
            return name
    raise UsageError(f"--data: none of the columns {', '.join(names)}; there are {', '.join(split.column_names)}")


def _subset(size: int, count: int | None) -> Tensor:
    if count is None or count >= size:
        return torch.arange(size)
    return torch.randperm(size, generator=torch.Generator().manual_seed(SUBSET_SEED))[:count].sort().values
