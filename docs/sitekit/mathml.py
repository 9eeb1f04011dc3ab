r"""Formulas as MathML, which browsers show by themselves: no script, no network, and a font that comes with the page.

``$x$`` and ``:math:`x``` in a line, ``$$`` and ``.. math::`` by themselves. Where a formula by itself has a ``\quad``,
a narrow screen may break the line.
"""

import logging
import re
from importlib.metadata import distribution
from pathlib import Path

from docutils import nodes
from fontTools import subset
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

SPACE = re.compile(r"\\q?quad\b\s*")
FONT = ("ziamath", "ziamath/fonts/STIXTwoMath-Regular.ttf")
"""Distribution and file: browsers put indices in place by a table that few fonts have, and not every system has one."""
GLYPHS = [
    *range(0x20, 0x7F),
    *(0xB7, 0xD7, 0x210E),  # a dot, a cross, the italic h
    *range(0x391, 0x3F6),  # Greek
    *range(0x2010, 0x2035),  # dashes, bars, dots, primes
    *range(0x2190, 0x2195),  # arrows
    *range(0x2200, 0x22F0),  # operators and relations
    *(0x27E8, 0x27E9),
    *range(0x1D400, 0x1D468),  # what browsers take for letters of a formula: bold and italic
    *range(0x1D6A8, 0x1D71C),  # and the same in Greek
]


def inline(translator: HTML5Translator, node: nodes.math) -> None:
    """A formula in a line."""
    translator.body.append(convert(node.astext()))
    raise nodes.SkipNode


def block(translator: HTML5Translator, node: nodes.math_block) -> None:
    """A formula by itself."""
    parts = "".join(convert(part, display="block") for part in SPACE.split(node.astext()))
    translator.body.append(f'<div class="math">{parts}</div>')
    raise nodes.SkipNode


def write_font(app: Sphinx, error: Exception | None) -> None:
    """The glyphs of formulas and their measures, a twentieth of the whole font, beside the style sheet."""
    if error is None and app.builder.format == "html":
        logging.getLogger("fontTools").setLevel(logging.WARNING)  # an example of the gallery has told all to speak
        options = subset.Options(flavor="woff", layout_features=["ssty"], name_IDs=[0, 13, 14], hinting=False)
        font = subset.load_font(str(distribution(FONT[0]).locate_file(FONT[1])), options)
        glyphs = subset.Subsetter(options)
        glyphs.populate(unicodes=GLYPHS)
        glyphs.subset(font)
        subset.save_font(font, str(Path(app.outdir) / "_static" / "formula.woff"), options)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the renderer, and make it the one in use."""
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    app.connect("config-inited", lambda _, config: setattr(config, "html_math_renderer", "mathml"))
    app.connect("build-finished", write_font)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
