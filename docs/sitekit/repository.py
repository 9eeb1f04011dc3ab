"""Links from a page to a file of the repository that is no page: the site carries a copy of ``results/``.

In the repository a page says ``../results/x.csv``, which works there; on the site it becomes a link to that copy. A
link to any other file outside ``docs/`` keeps its text alone.
"""

import re
import shutil
from pathlib import Path

from sphinx.application import Sphinx

OUTSIDE = re.compile(r"(?<!!)\[(?P<text>[^\]]*)\]\((?P<up>(?:\.\./)+)(?P<path>[^)\s]+)\)")


def rewrite(app: Sphinx, page: str, source: list[str]) -> None:
    """Change the links of one page, before it is parsed."""
    depth = page.count("/")

    def replaced(link: re.Match[str]) -> str:
        if link["up"].count("../") <= depth:
            return link[0]
        if not link["path"].startswith("results/"):
            return link["text"]
        return f'<a href="{"../" * depth}{link["path"]}">{link["text"].replace("`", "")}</a>'

    source[0] = OUTSIDE.sub(replaced, source[0])


def copy_results(app: Sphinx, error: Exception | None) -> None:
    """Put ``results/`` beside the pages."""
    if error is None and app.builder.format == "html":
        results = Path(app.srcdir).parent / "results"
        shutil.copytree(results, Path(app.outdir) / "results", dirs_exist_ok=True)


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect both."""
    app.connect("source-read", rewrite)
    app.connect("build-finished", copy_results)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
