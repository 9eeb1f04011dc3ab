"""Images: the embedded digits, folders in the hub's layout, augmentation, and what a wrong folder answers."""

import os
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from eigengrad_lab import data, models, recipes
from eigengrad_lab.config import Model, UsageError
from eigengrad_lab.methods import METHODS


def test_digits() -> None:
    digits = data.load("digits")
    assert digits.train_images.shape == (1437, 1, 8, 8)
    assert digits.test_images.shape == (360, 1, 8, 8)
    assert digits.test_labels.bincount().min() >= 34
    assert torch.equal(data.load("digits").test_images, digits.test_images)
    mean, std = digits.moments()
    standardised = (digits.train_images.float() - mean) / std
    assert abs(float(standardised.mean())) < 1e-4
    assert abs(float(standardised.std()) - 1) < 1e-4


def make_folder(root: Path, image_column: str, label_column: str) -> np.ndarray:
    """A data set of 12 training and 6 test images of 8x8 pixels, in the hub's layout."""
    pixels = np.random.default_rng(0).integers(0, 256, (18, 8, 8, 3), dtype=np.uint8)
    features = datasets.Features({image_column: datasets.Image(), label_column: datasets.Value("int64")})
    for split, chosen in (("train", slice(0, 12)), ("test", slice(12, 18))):
        images = [Image.fromarray(array) for array in pixels[chosen]]
        columns = {image_column: images, label_column: [index % 3 for index in range(len(images))]}
        table = datasets.Dataset.from_dict(columns, features=features)
        (root / "plain").mkdir(parents=True, exist_ok=True)
        table.to_parquet(root / "plain" / f"{split}-00000-of-00001.parquet")
    return pixels


@pytest.mark.parametrize(("image_column", "label_column"), [("img", "label"), ("image", "fine_label")])
def test_a_folder_in_the_hubs_layout(image_column: str, label_column: str, tmp_path: Path) -> None:
    pixels = make_folder(tmp_path / "tiny", image_column, label_column)
    images = data.load(str(tmp_path / "tiny"))
    assert torch.equal(images.train_images, torch.from_numpy(pixels[:12]).permute(0, 3, 1, 2))
    assert images.test_labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert (images.classes, images.pad, images.flip) == (3, 1, True)
    assert data.load(str(tmp_path / "tiny"), train_images=5, test_images=2).train_images.shape == (5, 3, 8, 8)
    assert data.canonical_name(str(tmp_path / "tiny")).startswith("tiny-")
    assert data.canonical_name("digits") == "digits"


def test_wrong_data(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no folder train/"):
        data.load(str(tmp_path))
    with pytest.raises(UsageError, match="no such folder; known names are digits, cifar10, cifar100"):
        data.load("cifar")
    for split in ("train", "test"):
        (tmp_path / f"{split}-0.parquet").write_bytes(b"not parquet")
    with pytest.raises(UsageError, match="cannot read its parquet files"):
        data.load(str(tmp_path))
    make_folder(tmp_path / "tiny", "picture", "label")
    with pytest.raises(UsageError, match="none of the columns img, image; there are picture, label"):
        data.load(str(tmp_path / "tiny"))


@pytest.mark.parametrize("flip", [False, True])
def test_augment(flip: bool) -> None:
    """Every result is a crop of its own padded image, mirrored or not; every offset and both sides occur."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(1, 256, (200, 3, 5, 5), dtype=torch.uint8, generator=generator)
    seen = set()
    crops = data.draw_crops(200, 5, 5, pad=1, flip=flip, generator=generator)
    augmented = crops.of(images, pad=1)
    padded = torch.nn.functional.pad(images, (1, 1, 1, 1))
    for index in range(len(images)):
        matches = {
            (row, column, mirrored)
            for row in range(3)
            for column in range(3)
            for mirrored in (False, True)
            if torch.equal(
                augmented[index].flip(-1) if mirrored else augmented[index],
                padded[index, :, row : row + 5, column : column + 5],
            )
        }
        assert len(matches) == 1
        seen |= matches
    assert len(seen) == (18 if flip else 9)
    assert torch.equal(crops[50:80].of(images[50:80], pad=1), augmented[50:80])


@pytest.mark.parametrize("model", ["small", "resnet18", "resnet50"])
@pytest.mark.parametrize("method", list(METHODS))
@pytest.mark.parametrize("layer", ["zca", "pca"])
def test_models(model: Model, method: str, layer: str) -> None:
    varied = recipes.Whitening((method,), group_sizes=(4,)) if layer == "zca" else recipes.Denoising((method,), rank=4)
    config = recipes.grid(varied, data="x", model=model, epochs=7, seeds=1)[0]
    torch.manual_seed(0)
    network = models.build(config, image_channels=3, classes=10, generator=torch.Generator().manual_seed(0))
    x = torch.randn(8, 3, 32, 32)
    logits = network(x)
    assert logits.shape == (8, 10)
    torch.nn.functional.cross_entropy(logits, torch.arange(8)).backward()
    parameters = sum(p.numel() for p in network.parameters())
    expected = {"small": 92_000, "resnet18": 11_173_962, "resnet50": 23_520_842}[model]
    assert parameters == pytest.approx(expected, rel=0 if model != "small" else 0.2)


@pytest.mark.skipif("EIGENGRAD_CIFAR10" not in os.environ, reason="EIGENGRAD_CIFAR10 names no folder with CIFAR-10")
def test_real_cifar10() -> None:
    images = data.load(os.environ["EIGENGRAD_CIFAR10"], train_images=200, test_images=100)
    assert images.train_images.shape == (200, 3, 32, 32)
    assert images.classes == 10
    assert 80 < float(images.train_images.float().mean()) < 160
