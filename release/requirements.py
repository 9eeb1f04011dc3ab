"""What an extra of this project names, extras of its own followed, a line each: to install it without the project.

Example: python release/requirements.py test
"""

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

PROJECT = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]


def requirements(extra: str) -> Iterator[str]:
    """Those of other projects."""
    for requirement in PROJECT["optional-dependencies"][extra]:
        own = re.fullmatch(rf"{PROJECT['name']}\[(.*)\]", requirement)
        if own is None:
            yield requirement
        else:
            for name in own[1].split(","):
                yield from requirements(name.strip())


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in PROJECT["optional-dependencies"]:
        sys.exit(f"usage: python release/requirements.py {{{','.join(PROJECT['optional-dependencies'])}}}")
    print(*dict.fromkeys(requirements(sys.argv[1])), sep="\n")
