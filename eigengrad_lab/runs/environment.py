"""What a figure must be quoted with: the versions, the machine, and the command that made it."""

import os
import platform
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import eigengrad

__all__ = ["command_line", "environment"]


def environment() -> dict[str, Any]:
    """Versions and the machine."""
    return {
        "eigengrad": eigengrad.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def command_line(arguments: Sequence[str]) -> str:
    """The command of these arguments, for records that others read: of a folder elsewhere, the last name alone."""
    return shlex.join(["eigengrad", *map(_without_place, arguments)])


def _without_place(word: str) -> str:
    """A folder without the folders it lies in, as ``--data=/a/b`` too; ``owner/name`` of a hub is none."""
    option, equals, value = word.rpartition("=") if word.startswith("--") else ("", "", word)
    path = Path(value)
    elsewhere = path.is_absolute() or ".." in path.parts or path.exists()
    return f"{option}{equals}{path.name or value}" if elsewhere else word


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
