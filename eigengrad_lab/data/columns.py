"""Tables of images and labels: data sets of the hub, and folders in their layout."""

import os
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from torch import Tensor

from eigengrad_lab.config import UsageError
from eigengrad_lab.data.images import ImageData, Splits, decoded, made_of, subset
from eigengrad_lab.parts import did_you_mean

__all__ = ["Table", "open_folder", "open_hub", "read"]

Table = Any
"""A ``datasets.DatasetDict``."""
REACHABLE_SECONDS = 3.0


def open_folder(folder: Path, splits: Splits) -> Table:
    """The ``train-*.parquet`` and ``test-*.parquet`` of a folder, at any depth."""
    import datasets

    found = {split: sorted(str(f) for f in folder.rglob(f"{split}*.parquet")) for split in (splits.train, splits.test)}
    if missing := [split for split, paths in found.items() if not paths]:
        there = sorted({path.stem.partition("-")[0] for path in folder.rglob("*.parquet")})
        raise UsageError(
            f"--data {folder}: the folder holds no {missing[0]}-*.parquet, only {', '.join(there)}; "
            "--train-split and --test-split choose others"
        )
    try:
        return datasets.load_dataset("parquet", data_files=found)
    except Exception as error:  # the library raises many kinds for files that are not what they seem
        raise UsageError(f"--data {folder}: cannot read its parquet files: {_first_line(error)}") from error


def open_hub(given: str, name: str) -> Table:
    """A data set of the hub, or what its library has cached of it."""
    import datasets
    import huggingface_hub

    if not _reachable(huggingface_hub.constants.ENDPOINT):  # or else the library tries again and again
        huggingface_hub.constants.HF_HUB_OFFLINE = True
        datasets.config.HF_HUB_OFFLINE = True
    try:
        return datasets.load_dataset(name)
    except Exception as error:  # no network, no such data set, a gated one: the library's message tells which
        raise UsageError(
            f"--data {given}: no folder here, not in the cache, and not to be had from the hub ({_first_line(error)}); "
            "download its parquet files elsewhere and give their folder: --data FOLDER"
        ) from error


def read(table: Table, splits: Splits, image_column: str | None, label_column: str | None) -> ImageData:
    """Decoded images of both splits."""
    if missing := [split for split in (splits.train, splits.test) if split not in table]:
        raise UsageError(
            f"--data: no split {missing[0]!r}, only {', '.join(table)}; --train-split and --test-split choose others"
        )
    return made_of(
        *(
            _decode(table[split], count, splits.image_size, image_column, label_column)
            for split, count in ((splits.train, splits.train_images), (splits.test, splits.test_images))
        )
    )


def _decode(
    split: Any, count: int | None, size: int | None, image_column: str | None, label_column: str | None
) -> tuple[Tensor, Tensor]:
    """Images and labels of the chosen rows."""
    import datasets

    images = _column(split, "--image-column", image_column, ("img", "image"))
    labels = _column(split, "--label-column", label_column, ("label", "fine_label"))
    rows = split.select(subset(len(split), count).tolist())
    try:
        if not isinstance(rows.features[images], datasets.Image):  # a file without the hub's notes on its columns
            rows = rows.cast_column(images, datasets.Image())
        pixels = decoded(list(rows[images]), size)
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"--data: column {images!r} holds no images: {_first_line(error)}") from error
    numbers = rows[labels]
    if not all(isinstance(number, int) for number in numbers):
        raise UsageError(f"--data: column {labels!r} must hold numbers, got {numbers[0]!r}")
    return pixels, torch.tensor(numbers)


def _column(split: Any, option: str, given: str | None, usual: tuple[str, ...]) -> str:
    there = split.column_names
    for name in usual if given is None else (given,):
        if name in there:
            return name
    what = f"none of the columns {', '.join(usual)}" if given is None else f"no column {given!r}"
    hint = did_you_mean(given or usual[0], there)
    raise UsageError(f"--data: {what}; there are {', '.join(there)}: choose with {option}{hint}")


def _reachable(address: str) -> bool:
    """Whether a server answers; true where a proxy, which cannot be asked so simply, stands before it."""
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True
    host, port = urlsplit(address).hostname, urlsplit(address).port or 443
    try:
        with socket.create_connection((host or "", port), timeout=REACHABLE_SECONDS):
            return True
    except OSError:
        return False


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
