"""Pages that read well in the repository, as the site wants them.

* ``../results/x.csv`` becomes a link to the site's copy of ``results/``; a link to any other file outside ``docs/``
  keeps its text alone.
* A public name, as in ``eg.eigh(A)``, becomes a link to its page.
* The empty line that ends a doctest in Markdown goes.
"""

import re
import shutil
from pathlib import Path

from sphinx.application import Sphinx

from sitekit.api import public_names

OUTSIDE = re.compile(r"(?<!!)\[(?P<text>[^\]]*)\]\((?P<up>(?:\.\./)+)(?P<path>[^)\s]+)\)")

CODE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
NAME = re.compile(r"(?<![`\[])`eg\.(?P<name>[\w.]+)(?P<call>\([^`]*\))?`(?!`)")


def rewrite(app: Sphinx, page: str, source: list[str]) -> None:
    """Change one page, before it is parsed."""
    depth = page.count("/")

    def replaced(link: re.Match[str]) -> str:
        if link["up"].count("../") <= depth:
            return link[0]
        if not link["path"].startswith("results/"):
            return link["text"]
        return f'<a href="{"../" * depth}{link["path"]}">{link["text"].replace("`", "")}</a>'

    known = public_names()

    def linked(code: re.Match[str]) -> str:
        name = f"eigengrad.{code['name']}"
        return f"{{py:obj}}{code[0][:-1]} <{name}>`" if name in known else code[0]

    def prose(text: str) -> str:
        return NAME.sub(linked, OUTSIDE.sub(replaced, text))

    blocks = [block.replace("\n\n```", "\n```") for block in CODE.findall(source[0])]
    between = [prose(text) for text in CODE.split(source[0])]
    source[0] = "".join(part for pair in zip(between, [*blocks, ""], strict=True) for part in pair)


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
