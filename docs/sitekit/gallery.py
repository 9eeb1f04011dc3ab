"""A page of the gallery begins with the picture that its program ends in: below what it is about, above the code."""

import re

from sphinx.application import Sphinx

PICTURE = re.compile(r"^\.\. image-sg:: .*\n(?:   .*\n)+", re.MULTILINE)
CODE = ".. GENERATED FROM PYTHON SOURCE LINES"


def picture_first(app: Sphinx, page: str, source: list[str]) -> None:
    """Move the last picture of one page to before its first code."""
    pictures = PICTURE.findall(source[0])
    if page.startswith("gallery/") and pictures and CODE in source[0]:
        without = source[0].replace(pictures[-1], "")
        source[0] = without.replace(CODE, f"{pictures[-1]}\n{CODE}", 1)


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect it."""
    app.connect("source-read", picture_first)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
