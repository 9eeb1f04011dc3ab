"""Folders of pictures, and NumPy archives."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from eigengrad_lab.config import UsageError
from eigengrad_lab.data.images import ImageData, Splits, decoded, made_of, subset

__all__ = ["READ", "read_archive", "read_pictures"]

PICTURES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
READ = PICTURES | {".parquet"}
"""Endings of the files that a folder is known by."""


def read_pictures(folder: Path, splits: Splits) -> ImageData:
    """``train/CLASS/*.png`` and ``test/CLASS/*.png``; classes are numbered in the order of their names."""
    for split in (splits.train, splits.test):
        if not (folder / split).is_dir():
            there = sorted(path.name for path in folder.iterdir() if path.is_dir())
            raise UsageError(
                f"--data {folder}: it holds no train-*.parquet, and no folder {split}/ with a folder for each class, "
                f"only {', '.join(there) or 'none at all'}; --train-split and --test-split choose others"
            )
    classes = sorted({path.name for split in (splits.train, splits.test) for path in (folder / split).iterdir()
                      if path.is_dir()})  # fmt: skip
    if len(classes) < 2:
        raise UsageError(f"--data {folder / splits.train}: it needs a folder for each class, has {len(classes)}")
    number = {name: index for index, name in enumerate(classes)}

    def read(split: str, count: int | None) -> tuple[Tensor, Tensor]:
        paths = sorted(path for path in (folder / split).glob("*/*") if path.suffix.lower() in PICTURES)
        if not paths:
            raise UsageError(f"--data {folder / split}: no pictures in the folders of its classes")
        chosen = [paths[index] for index in subset(len(paths), count).tolist()]
        images = []
        for path in chosen:
            try:
                with Image.open(path) as image:
                    images.append(image.copy())
            except (UnidentifiedImageError, OSError) as error:
                raise UsageError(f"--data {path}: cannot read it as a picture: {error}") from error
        return decoded(images, splits.image_size), torch.tensor([number[path.parent.name] for path in chosen])

    return made_of(read(splits.train, splits.train_images), read(splits.test, splits.test_images))


def read_archive(path: Path, splits: Splits) -> ImageData:
    """A ``.npz`` with ``x_train``, ``y_train``, ``x_test``, ``y_test``, or ``train_images``, ``train_labels`` and so
    on.

    Images ``(N, H, W)``, ``(N, H, W, 1 or 3)`` or ``(N, 1 or 3, H, W)`` of uint8, labels ``(N,)`` or ``(N, 1)``,
    whatever integers they are: the classes are those that occur, in ascending order.
    """
    try:
        archive = np.load(path, allow_pickle=False)
        names = list(archive.files)
    except (OSError, ValueError, AttributeError, EOFError) as error:
        raise UsageError(f"--data {path}: not a NumPy archive (.npz)") from error

    def array(split: str, kind: str, letter: str) -> np.ndarray:
        for name in (f"{letter}_{split}", f"{split}_{kind}"):
            if name in names:
                try:
                    return archive[name]
                except ValueError as error:
                    raise UsageError(f"--data {path}: {name} must be an array of numbers, not of objects") from error
        raise UsageError(f"--data {path}: no {letter}_{split} and no {split}_{kind}; there are {', '.join(names)}")

    classes = np.unique(np.concatenate([array(s, "labels", "y").reshape(-1) for s in (splits.train, splits.test)]))

    def read(split: str, count: int | None) -> tuple[Tensor, Tensor]:
        images, labels = array(split, "images", "x"), array(split, "labels", "y").reshape(-1)
        if len(images) != len(labels):
            raise UsageError(f"--data {path}: {len(images)} images of {split}, but {len(labels)} labels")
        if images.dtype != np.uint8 or not np.issubdtype(labels.dtype, np.integer):
            raise UsageError(
                f"--data {path}: images must be uint8, labels integers, got {images.dtype}, {labels.dtype}"
            )
        chosen = subset(len(images), count).numpy()
        pixels, numbers = images[chosen], torch.from_numpy(np.searchsorted(classes, labels[chosen]))
        if pixels.ndim == 3:
            pixels = pixels[..., None]
        if pixels.ndim == 4 and pixels.shape[1] in (1, 3) and pixels.shape[3] not in (1, 3):
            pixels = pixels.transpose(0, 2, 3, 1)
        if pixels.ndim != 4 or pixels.shape[3] not in (1, 3):
            raise UsageError(f"--data {path}: images must be (N, H, W) or (N, H, W, 1 or 3), got {images.shape}")
        if splits.image_size is not None:
            return decoded([Image.fromarray(p.squeeze(-1) if p.shape[2] == 1 else p) for p in pixels],
                           splits.image_size), numbers  # fmt: skip
        return torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()), numbers

    return made_of(read(splits.train, splits.train_images), read(splits.test, splits.test_images))
