"""Files that are written whole or not at all, and JSON objects in them."""

import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

__all__ = ["NO_FILE", "read_json", "without_nan", "write_atomically", "write_json", "write_text"]

NO_FILE = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


def write_atomically(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then move it there."""
    with _temporary(path) as file:
        write(file)


def write_text(path: Path, text: str) -> None:
    """The same for a text."""
    write_atomically(path, lambda file: file.write(text.encode()))


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a file; ``None`` if there is none, or none that can be read."""
    try:
        content = json.loads(path.read_text())
    except (*NO_FILE, ValueError):
        return None
    return content if isinstance(content, dict) else None


def write_json(path: Path, content: dict[str, Any]) -> None:
    """An object to a file; null stands for NaN and infinity, which JSON does not have."""
    write_text(path, json.dumps(without_nan(content), indent=2, allow_nan=False) + "\n")


def without_nan(content: dict[str, Any]) -> dict[str, Any]:
    """The same with ``None`` for numbers that are not finite."""
    return {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in content.items()}


@contextmanager
def _temporary(path: Path) -> Iterator[IO[bytes]]:
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise
    # NamedTemporaryFile is private to its owner; a record may be read by anyone who may read the folder.
    Path(file.name).chmod(0o644)
    Path(file.name).replace(path)
