"""What an upload still wants, a sentence each: ``python release/ready.py [FILE ...]``, the files to be uploaded.

Ends with 1 if there is anything. A rehearsal shows it, and the workflow of a tag stops at it.
"""

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

ADDRESSES = ("Changelog", "Documentation", "Issues", "Repository")
"""Of ``[project.urls]``. ``release/index_readme.py`` makes the README's links absolute from the last."""
KINDS = {
    "an sdist": r"\.tar\.gz$",
    "a wheel for Linux on x86_64": r"-manylinux\w*_x86_64\.whl$",
    "a wheel for Linux on aarch64": r"-manylinux\w*_aarch64\.whl$",
    "a wheel for macOS": r"-macosx_\w+\.whl$",
    "a pure wheel": r"-none-any\.whl$",
}


def wanting(root: Path, files: Sequence[str], tags: Sequence[str]) -> Iterator[str]:
    """Of the sources in ``root``, tagged with ``tags``; of the files, if there are any."""
    urls = tomllib.loads((root / "pyproject.toml").read_text())["project"].get("urls", {})
    if missing := [name for name in ADDRESSES if name not in urls]:
        yield f"pyproject.toml: [project.urls] has no {', '.join(missing)}, which want the project's public address"
    citation = (root / "CITATION.cff").read_text()
    if not re.search(r"^repository-code: ", citation, re.MULTILINE):
        yield "CITATION.cff: no repository-code"
    if "not on a package index yet" in (root / "docs" / "index.md").read_text():
        yield "docs/index.md and README.md: how to install it from an index"
    found = re.search(r'^__version__ = "(.+)"', (root / "eigengrad" / "__init__.py").read_text(), re.MULTILINE)
    assert found is not None
    version = found[1]
    unreleased, _, released = (root / "CHANGELOG.md").read_text().partition("## [Unreleased]\n")[2].partition("## [")
    if unreleased.strip():
        yield f'CHANGELOG.md: what stands under "Unreleased" belongs to {version}'
    if not re.match(rf"{re.escape(version)}\] - \d{{4}}-\d\d-\d\d\n", released):
        yield f"CHANGELOG.md: the latest version is not {version} with a date"
    if not re.search(rf"^version: {re.escape(version)}$", citation, re.MULTILINE):
        yield f"CITATION.cff: the version is not {version}"
    if f"v{version}" not in tags:
        yield f"git: this commit has no tag v{version}"
    if files:
        yield from (f"{name}: another version than {version}" for name in files if f"eigengrad-{version}" not in name)
        yield from (
            f"the files lack {kind}" for kind, name in KINDS.items() if not re.search(name, "\n".join(files), re.M)
        )


if __name__ == "__main__":
    here = Path(__file__).parent.parent
    git = subprocess.run(["git", "tag", "--points-at", "HEAD"], capture_output=True, text=True, cwd=here, check=False)
    sentences = list(wanting(here, sys.argv[1:], git.stdout.split()))
    print(*sentences or ["ready for an upload"], sep="\n")
    sys.exit(bool(sentences))
