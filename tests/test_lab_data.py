"""Images: the embedded digits, folders in the hub's layout, augmentation, and what a wrong folder answers."""

import os
import time
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


def test_a_file_without_the_hubs_notes(tmp_path: Path) -> None:
    """Parquet as anyone writes it: bytes of a picture, or a struct of them, and nothing that says so."""
    import io

    import pyarrow
    import pyarrow.parquet

    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    encoded = []
    for array in pixels:
        file = io.BytesIO()
        Image.fromarray(array).save(file, format="png")
        encoded.append(file.getvalue())
    for split in ("train", "test"):
        structs = [{"bytes": picture, "path": None} for picture in encoded]
        table = pyarrow.table({"image": structs, "label": [0, 1, 2, 0, 1, 2], "words": list("abcdef")})
        pyarrow.parquet.write_table(table, tmp_path / f"{split}-0.parquet")
    images = data.load(str(tmp_path))
    assert torch.equal(images.train_images, torch.from_numpy(pixels).permute(0, 3, 1, 2))
    with pytest.raises(UsageError, match="column 'words' holds no images"):
        data.load(str(tmp_path), image_column="words")
    with pytest.raises(UsageError, match="column 'words' must hold numbers"):
        data.load(str(tmp_path), label_column="words")
    with pytest.raises(UsageError, match=r"no column 'lable'; .* with --label-column \(did you mean 'label'\?\)"):
        data.load(str(tmp_path), label_column="lable")
    with pytest.raises(UsageError, match=r"holds no valid-\*\.parquet, only test, train; --train-split"):
        data.load(str(tmp_path), test_split="valid")


def make_pictures(root: Path, *, mode: str, size: int = 10) -> None:
    for split, count in (("train", 4), ("valid", 2)):
        for name in ("cat", "dog", "eel"):
            (root / split / name).mkdir(parents=True)
            for index in range(count):
                shade = 20 * index + {"cat": 0, "dog": 60, "eel": 120}[name]
                picture = Image.new(mode, (size, size), shade if mode == "L" else (shade, 0, 0))
                picture.save(root / split / name / f"{index}.png")


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3)])
def test_a_folder_of_pictures(mode: str, channels: int, tmp_path: Path) -> None:
    """Grey pictures stay grey and are not mirrored; both can be chosen."""
    make_pictures(tmp_path, mode=mode)
    images = data.load(str(tmp_path), test_split="valid")
    assert images.train_images.shape == (12, channels, 10, 10)
    assert images.train_labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert images.test_images[:, 0, 0, 0].tolist() == [0, 20, 60, 80, 120, 140]
    assert (images.classes, images.flip, images.pad) == (3, channels == 3, 1)
    chosen = data.load(str(tmp_path), test_split="valid", image_size=6, flip=channels == 1, crop=0, train_images=5)
    assert chosen.train_images.shape == (5, channels, 6, 6)
    assert (chosen.flip, chosen.pad) == (channels == 1, 0)
    assert data.canonical_name(str(tmp_path)) != str(tmp_path)
    with pytest.raises(UsageError, match=r"no folder test/ with a folder for each class, only train, valid"):
        data.load(str(tmp_path))
    Image.new(mode, (7, 7)).save(tmp_path / "train" / "cat" / "small.png")
    with pytest.raises(UsageError, match="images of several sizes; --image-size 64"):
        data.load(str(tmp_path), test_split="valid")


@pytest.mark.parametrize("layout", ["keras", "medmnist", "channels first"])
def test_an_archive(layout: str, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 8, 8, 3), dtype=np.uint8)
    labels = np.arange(9) % 3
    path = tmp_path / "set.npz"
    if layout == "keras":
        np.savez(path, x_train=pixels[..., 0], y_train=labels, x_test=pixels[:3, ..., 0], y_test=labels[:3])
    elif layout == "medmnist":
        small = {"test_images": pixels[:3], "test_labels": labels[:3]}
        np.savez(path, train_images=pixels, train_labels=labels[:, None], **small)
    else:
        first = pixels.transpose(0, 3, 1, 2)
        np.savez(path, x_train=first, y_train=labels, x_test=first[:3], y_test=labels[:3])
    images = data.load(str(path))
    expected = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    assert torch.equal(images.train_images, expected[:, :1] if layout == "keras" else expected)
    assert images.test_labels.tolist() == [0, 1, 2]
    assert data.load(str(path), image_size=4).train_images.shape[2:] == (4, 4)
    np.savez(path, x_train=pixels / 255, y_train=labels, x_test=pixels[:3], y_test=labels[:3])
    with pytest.raises(UsageError, match="images must be uint8, labels integers, got float64"):
        data.load(str(path))
    for content in ("none", ""):
        (tmp_path / "notes.txt").write_text(content)
        with pytest.raises(UsageError, match=r"notes\.txt: not a NumPy archive \(\.npz\)$"):
            data.load(str(tmp_path / "notes.txt"))
    arrays = {"x_train": pixels, "y_train": labels, "x_test": pixels[:3], "y_test": labels[:3]}
    np.savez(path, **arrays | {"x_train": pixels[:0], "y_train": labels[:0]})
    with pytest.raises(UsageError, match="0 training images and 3 test images; both are needed"):
        data.load(str(path))
    np.savez(path, **arrays | {"y_train": labels.astype(object)})
    with pytest.raises(UsageError, match="y_train must be an array of numbers, not of objects"):
        data.load(str(path))
    np.savez(path, **arrays | {"y_train": 10**8 * labels + 1, "y_test": 10**8 * labels[:3] + 1})
    images = data.load(str(path))
    assert (images.classes, images.test_labels.tolist()) == (3, [0, 1, 2])


def test_pictures_of_16_bits(tmp_path: Path) -> None:
    """They are divided, where Pillow would make nearly all of them white."""
    numbers = np.random.default_rng(0).integers(0, 2**16, (3, 8, 8), dtype=np.uint16)
    for index, array in enumerate(numbers):
        for place in ("train/a", "train/b", "test/a"):
            (tmp_path / place).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(tmp_path / place / f"{index}.png")
    images = data.load(str(tmp_path))
    expected = torch.from_numpy((numbers / 257).round().astype(np.uint8)).unsqueeze(1)
    assert torch.equal(images.test_images, expected)


def test_a_hub_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, and with what to do instead."""
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("eigengrad_lab.data.columns._reachable", lambda address: False)
    begun = time.monotonic()
    with pytest.raises(UsageError, match=r"give their folder: --data FOLDER"):
        data.load("nobody/nothing-of-this-name")
    assert time.monotonic() - begun < 10


def test_a_mistyped_path_is_no_name_of_the_hub(tmp_path: Path) -> None:
    (tmp_path / "cifar10").mkdir()
    with pytest.raises(UsageError, match=r"no such folder; .*did you mean 'cifar10'"):
        data.load(str(tmp_path / "cifar01"))
    for name in ("./a/b", "~/nothing/here", "a/b/c"):
        with pytest.raises(UsageError, match="no such folder"):
            data.load(name)
