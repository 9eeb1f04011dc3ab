"""Data sets as tensors: scikit-learn's digits, image sets in the hub's layout, folders of pictures, NumPy archives.

Images are held as uint8 on the training device; standardisation and augmentation happen there, a batch at a time.

Reading order: images (what a data set is), columns (tables of the hub), files (folders and archives), augmentation.
"""

import dataclasses
import hashlib
from pathlib import Path

from eigengrad_lab.config import RunConfig, UsageError
from eigengrad_lab.data import columns, files
from eigengrad_lab.data.augmentation import Crops, draw_crops
from eigengrad_lab.data.images import ImageData, Splits, subset
from eigengrad_lab.parts import did_you_mean

__all__ = ["Crops", "ImageData", "canonical_name", "draw_crops", "load", "load_for"]

HUB_NAMES = {"cifar10": "uoft-cs/cifar10", "cifar100": "uoft-cs/cifar100"}


def canonical_name(name: str) -> str:
    """The name of a data set in records: a folder or file by its own name and a hash of what it holds.

    Where a folder lies is no part of a run's identity; names and sizes of its files are.
    """
    place = Path(name).expanduser()
    if name == "digits" or not place.exists():
        return name
    held = [place] if place.is_file() else [file for file in place.rglob("*") if file.suffix.lower() in files.READ]
    listing = sorted((f.name if place.is_file() else f.relative_to(place).as_posix(), f.stat().st_size) for f in held)
    own_name = place.stem if place.is_file() else place.resolve().name
    return f"{own_name}-{hashlib.sha256(repr(listing).encode()).hexdigest()[:6]}"


def load_for(config: RunConfig, name: str) -> ImageData:
    """The images of a run, from where the user says they are, with the run's own choices."""
    return load(
        name,
        train_images=config.train_images,
        test_images=config.test_images,
        image_column=config.image_column,
        label_column=config.label_column,
        train_split=config.train_split,
        test_split=config.test_split,
        image_size=config.image_size,
        flip=config.flip,
        crop=config.crop,
    )


def load(
    name: str,
    *,
    train_images: int | None = None,
    test_images: int | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    train_split: str | None = None,
    test_split: str | None = None,
    image_size: int | None = None,
    flip: bool | None = None,
    crop: int | None = None,
) -> ImageData:
    """A data set by name.

    Args:
        name: ``"digits"``; ``"cifar10"`` or ``"cifar100"``; any image data set's ``owner/name`` on the hub; a folder
        that
            holds one in the hub's layout, ``train-*.parquet`` and ``test-*.parquet`` at any depth; a folder of
            pictures, ``train/CLASS/*.png`` and ``test/CLASS/*.png``; or a NumPy archive (see
            :mod:`eigengrad_lab.data.files`).
        train_images: size of a fixed random subset of the training images.
        test_images: the same for the test images.
        image_column, label_column: of a table; by default ``img`` or ``image``, ``label`` or ``fine_label``.
        train_split, test_split: names of the splits, by default ``train`` and ``test``.
        image_size: scale every image to this height and width.
        flip: mirror half of the training images. By default colour photographs are mirrored, grey pictures are not.
        crop: pixels of zeros around an image before a crop of its own size is taken; 0 for no crops. By default an
        eighth
            of its height, the paper's 4 for CIFAR.

    Raises:
        UsageError: if there is no such data set, or it is not what was said.
    """
    count = (train_images, test_images)
    if name == "digits":
        images = _load_digits(*count)
    else:
        place = Path(name).expanduser()
        splits = Splits(train_split or "train", test_split or "test", *count, image_size)
        if place.is_file():
            images = files.read_archive(place, splits)
        elif place.is_dir() and not any(place.rglob("*.parquet")):
            images = files.read_pictures(place, splits)
        else:
            table = columns.open_folder(place, splits) if place.is_dir() else _from_hub(name)
            images = columns.read(table, splits, image_column, label_column)
    return dataclasses.replace(
        images, flip=images.flip if flip is None else flip, pad=images.pad if crop is None else crop
    )


def _from_hub(name: str) -> columns.Table:
    """A known name, or another ``owner/name``; what looks like a path is none."""
    place = Path(name).expanduser()
    known = ["digits", *HUB_NAMES]
    if name not in HUB_NAMES and (name.count("/") != 1 or name[0] in "./~" or place.parent.is_dir()):
        near = [path.name for path in place.parent.iterdir()] if place.parent.is_dir() else []
        hint = did_you_mean(place.name, near) or did_you_mean(name, known)
        kind = "file" if place.suffix else "folder"
        raise UsageError(
            f"--data {name!r}: no such {kind}; known names are {', '.join(known)}, or owner/name of the hub{hint}"
        )
    return columns.open_hub(name, HUB_NAMES.get(name, name))


def _load_digits(train_images: int | None, test_images: int | None) -> ImageData:
    """1,797 scans of 8x8 pixels, a fifth of each class for testing."""
    import torch
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    split = train_test_split(images, labels, test_size=0.2, stratify=labels, random_state=0)
    train_x, test_x, train_y, test_y = (torch.from_numpy(array) for array in split)
    train, test = subset(len(train_y), train_images), subset(len(test_y), test_images)
    return ImageData(
        train_x.to(torch.uint8).view(-1, 1, 8, 8)[train],
        train_y.long()[train],
        test_x.to(torch.uint8).view(-1, 1, 8, 8)[test],
        test_y.long()[test],
        classes=10,
        pad=1,
        flip=False,
    )
