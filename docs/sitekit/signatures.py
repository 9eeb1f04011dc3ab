"""Signatures say what a default is worth: ``momentum=0.25``, where the source has the name of a constant."""

import re
import sys

from sphinx.application import Sphinx

CONSTANT = re.compile(r"=(?P<name>[A-Z_]{2,})\b")
LONGEST = 20
"""What is longer keeps its name."""


def valued(
    app: Sphinx, what: str, name: str, value: object, options: object, signature: str | None, returned: str | None
) -> tuple[str, str | None] | None:
    """A signature whose constants are their values; None, which changes nothing, for what has no signature."""
    if signature is None:
        return None
    module = sys.modules.get(getattr(value, "__module__", ""))

    def replaced(default: re.Match[str]) -> str:
        said = repr(getattr(module, default["name"], None))
        return default[0] if said == "None" or len(said) > LONGEST else f"={said}"

    return CONSTANT.sub(replaced, signature), returned


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect it."""
    app.connect("autodoc-process-signature", valued)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
