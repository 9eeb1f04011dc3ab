"""What a data set is, and how its two splits become one."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from eigengrad_lab.config import UsageError

__all__ = ["ImageData", "Splits", "decoded", "made_of", "subset"]

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
class Splits:
    """Which two splits are wanted, and how much of them."""

    train: str
    test: str
    train_images: int | None
    test_images: int | None
    image_size: int | None


def made_of(train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> ImageData:
    """Both splits, images and labels each; photographs are mirrored, grey pictures are not.

    Raises:
        UsageError: if the splits do not go together.
    """
    (train_x, train_y), (test_x, test_y) = train, test
    if train_x.shape[1:] != test_x.shape[1:]:
        raise UsageError(
            f"--data: training images are {_size(train_x)}, test images {_size(test_x)}; --image-size scales both"
        )
    if not len(train_x) or not len(test_x):
        raise UsageError(f"--data: {len(train_x)} training images and {len(test_x)} test images; both are needed")
    smallest = int(min(train_y.min(), test_y.min()))
    if smallest < 0:
        raise UsageError(f"--data: labels must be numbers from 0 on, got {smallest}")
    classes = int(max(train_y.max(), test_y.max())) + 1
    return ImageData(train_x, train_y, test_x, test_y, classes, train_x.shape[2] // 8, flip=train_x.shape[1] == 3)


def decoded(images: list[Image.Image], size: int | None) -> Tensor:
    """Pictures as ``(N, 1 or 3, H, W)`` of uint8: grey where all are."""
    pictures = [_of_bytes(image) for image in images]
    grey = all(picture.mode in ("1", "L") for picture in pictures)
    arrays = []
    for each in pictures:
        picture = each.convert("L" if grey else "RGB")
        if size is not None:
            picture = picture.resize((size, size), Image.Resampling.BILINEAR)
        arrays.append(np.asarray(picture).reshape(picture.height, picture.width, -1))
    if len({array.shape for array in arrays}) != 1:
        raise UsageError("--data: images of several sizes; --image-size 64 scales all to 64 x 64")
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()


def _of_bytes(image: Image.Image) -> Image.Image:
    """Of 8 bits a channel: a picture of 16 bits is divided by 257, where Pillow would cut it off at 255."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image).astype(np.float32) / 257.0).round().astype(np.uint8))
    if image.mode in ("I", "F"):
        raise UsageError(
            f"--data: a picture of mode {image.mode}, whose numbers may lie anywhere; save pictures with 8 or 16 bits"
        )
    return image


def subset(size: int, count: int | None) -> Tensor:
    """Indices of a fixed random subset, in ascending order; of all where there are no more."""
    if count is None or count >= size:
        return torch.arange(size)
    return torch.randperm(size, generator=torch.Generator().manual_seed(SUBSET_SEED))[:count].sort().values


def _size(images: Tensor) -> str:
    return " x ".join(str(length) for length in images.shape[1:])
