"""The state of a run, on disk twice: the last one, and the one before in case the last is damaged.

A checkpoint is ``torch.save``'s zip archive, whose own checksums are verified before it is read, without pickled code.
A damaged one is kept under another name, so that what happened can be found out, and the one before is taken.
"""

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from eigengrad_lab.runs.files import write_atomically

__all__ = ["Checkpoints"]

State = dict[str, Any]


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: the run's folder.
        on_damage: told in one sentence about each damaged file.
    """

    def __init__(self, folder: Path, on_damage: Callable[[str], None] = lambda message: None) -> None:
        self.last, self.before = folder / "checkpoint.pt", folder / "checkpoint-before.pt"
        self.on_damage = on_damage

    def exist(self) -> bool:
        """Whether there is anything to resume from."""
        return self.last.exists() or self.before.exists()

    def save(self, state: State) -> None:
        """Keep ``state``: tensors, numbers, strings, and lists and dicts of them."""
        if self.last.exists():
            self.last.replace(self.before)  # killed here, a run resumes from the one before
        write_atomically(self.last, lambda file: torch.save(state, file))

    def load(self, device: torch.device) -> State | None:
        """The last state that is whole, or ``None``."""
        for path in (self.last, self.before):
            if path.exists():
                try:
                    with zipfile.ZipFile(path) as archive:
                        if (member := archive.testzip()) is not None:
                            raise zipfile.BadZipFile(f"wrong checksum in {member}")
                    return torch.load(path, map_location=device, weights_only=True)
                except (zipfile.BadZipFile, pickle.UnpicklingError, EOFError, RuntimeError, ValueError) as error:
                    aside = _unused(path.with_suffix(".damaged"))
                    path.replace(aside)
                    reason = str(error).partition("\n")[0]
                    self.on_damage(f"{path} is damaged ({reason}); set aside as {aside.name}")
        return None

    def remove(self) -> None:
        """Drop both, once nobody will resume from them."""
        self.last.unlink(missing_ok=True)
        self.before.unlink(missing_ok=True)


def _unused(path: Path) -> Path:
    number = 1
    while path.with_suffix(f"{path.suffix}{number}").exists():
        number += 1
    return path.with_suffix(f"{path.suffix}{number}")
