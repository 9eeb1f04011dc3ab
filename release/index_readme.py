"""The README as a package index shows it: relative links made absolute, or plain text where there is no address yet.

A provider of metadata for scikit-build-core. An index renders the README away from the repository, where a relative
link leads nowhere. The address is the project's own, ``Repository`` of ``[project.urls]``, and stands nowhere else.
"""

import re
import tomllib
from pathlib import Path
from typing import Any

RELATIVE_LINK = re.compile(r"(?P<picture>!?)\[(?P<text>[^\]]*)\]\((?!\w+:|#)(?P<path>[^)\s]+)\)")


def absolute_links(text: str, repository: str | None, version: str) -> str:
    """``text`` with relative links to files of the repository at ``version``; without one, their text alone."""

    def replaced(link: re.Match[str]) -> str:
        picture, name, path = link["picture"], link["text"], link["path"]
        if repository is None:
            return "" if picture else name
        kind = "raw" if picture else "blob"
        return f"{picture}[{name}]({repository.rstrip('/')}/{kind}/v{version}/{path})"

    return RELATIVE_LINK.sub(replaced, text)


def dynamic_metadata(field: str, settings: dict[str, object], project: dict[str, Any] | None = None) -> dict[str, str]:
    """The field ``readme`` of the project in the current folder, for scikit-build-core."""
    if field != "readme" or settings:
        raise ValueError(f"index_readme provides the field readme and has no settings, got {field!r}, {settings!r}")
    metadata = tomllib.loads(Path("pyproject.toml").read_text())
    source = Path(metadata["tool"]["scikit-build"]["metadata"]["version"]["input"]).read_text()
    version = re.search(r'^__version__ = "(.+)"', source, re.MULTILINE)
    assert version is not None
    repository = metadata["project"].get("urls", {}).get("Repository")
    text = absolute_links(Path("README.md").read_text(), repository, version[1])
    return {"content-type": "text/markdown", "text": text}
