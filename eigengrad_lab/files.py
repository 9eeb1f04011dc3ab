"""Files that are written whole or not at all."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

__all__ = ["write_atomically", "write_text"]


def write_atomically(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then move it there."""
    with _temporary(path) as file:
        write(file)


def write_text(path: Path, text: str) -> None:
    """The same for a text."""
    write_atomically(path, lambda file: file.write(text.encode()))


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
