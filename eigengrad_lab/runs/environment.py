"""What a figure must be quoted with: the versions, the machine, and the command that made it."""

import functools
import os
import platform
import re
import shlex
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import eigengrad

__all__ = ["DECIDING", "command_line", "commit", "differences", "environment", "mixture"]

DECIDING = ("eigengrad", "commit", "torch", "processor", "kernel", "threads", "blas", "device")
"""What the last bits of a figure, and so the fate of a run at the brink, may depend on."""


def environment(device: str = "cpu") -> dict[str, Any]:
    """Versions, the machine, and how this process computes on it."""
    cuda = device.startswith("cuda") and torch.cuda.is_available()
    return {
        "eigengrad": eigengrad.__version__,
        "commit": commit(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "kernel": eigengrad.native.instructions() or "none",
        "threads": torch.get_num_threads(),
        "blas": _blas(),
        "device": torch.cuda.get_device_name() if cuda else device,
    }


def differences(environments: Sequence[Mapping[str, Any]]) -> list[str]:
    """Which of :data:`DECIDING` differ among them."""
    return [name for name in DECIDING if len({str(one.get(name)) for one in environments}) > 1]


def mixture(environments: Sequence[Mapping[str, Any]]) -> str:
    """A sentence about what differs among those of the runs of one table; empty if nothing does."""
    parts = []
    for name in differences(environments):
        counts = Counter(str(one.get(name, "unknown")) for one in environments).most_common()
        parts.append(f"{name}: " + ", ".join(f"{value} ({count} runs)" for value, count in counts))
    return f"These runs were not all made alike; {'; '.join(parts)}." if parts else ""


@functools.cache
def commit() -> str | None:
    """Of the sources of this package, with ``-modified`` where they differ from it; ``None`` outside of a checkout."""
    here = Path(__file__).resolve().parents[2]

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(here), *words], capture_output=True, text=True, check=True, timeout=10
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    top = git("rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != here:
        return None
    changed = git("status", "--porcelain", "--", "eigengrad", "eigengrad_lab", "native")
    return f"{git('rev-parse', '--short=10', 'HEAD')}{'-modified' if changed else ''}"


@functools.cache
def _blas() -> str:
    """The library of torch's matrix products on a CPU."""
    found = re.search(r"BLAS_INFO=(\w+)", torch.__config__.show())
    return found.group(1) if found else "unknown"


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
