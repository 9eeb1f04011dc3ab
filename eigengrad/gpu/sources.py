"""The kernels' source: the headers of the folder ``native``, which a wheel carries as data beside this file."""

import functools
from pathlib import Path

__all__ = ["folder", "headers"]


def folder() -> Path:
    """Where the headers lie: beside this file once installed, else in the source tree."""
    here = Path(__file__).parent
    installed, in_tree = here / "native", here.parents[1] / "native"
    return installed if installed.is_dir() else in_tree


@functools.cache
def headers() -> dict[str, str]:
    """What kernels are made of, by the name that ``#include`` has for it."""
    root = folder()
    found: dict[str, str] = {}

    def add(name: str) -> None:
        if name in found:
            return
        found[name] = (root / name).read_text()
        for line in found[name].splitlines():
            if line.startswith('#include "') and (root / line.split('"')[1]).exists():
                add(line.split('"')[1])

    for path in sorted((root / "gpu").glob("*.hpp")):
        add(f"gpu/{path.name}")
    return found
