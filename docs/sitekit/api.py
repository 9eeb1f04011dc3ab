"""Every public name of eigengrad, by concept: what belongs where is read off the module that defines it.

A new name in a module that is already here appears by itself. One in a new module raises an error, which says what to
write: one line in ``CONCEPTS``.
"""

import inspect
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import eigengrad

__all__ = ["CONCEPTS", "GALLERY_ORDER", "by_concept", "public_names", "write"]

GALLERY_ORDER = [
    f"../examples/{folder}" for folder in ("basics", "networks", "vision", "geometry", "statistics", "physics")
]
"""Of the gallery's sections."""


INTERNAL = (
    *("eigengrad.native.operators", "eigengrad.native.thresholds"),
    *(
        f"eigengrad.gpu.{name}"
        for name in ("arguments", "compiler", "driver", "kernels", "operators", "passes", "sources")
    ),
)
"""Modules for whoever works on the kernels."""


@dataclass(frozen=True)
class Concept:
    """A page of names."""

    slug: str
    title: str
    modules: tuple[str, ...]
    """Where its names are defined, without ``eigengrad.``; a package stands for all within it."""
    text: str


CONCEPTS = (
    Concept(
        "eigenvectors",
        "Eigenvectors and singular vectors",
        ("eigh", "svd", "eigsh"),
        "Decompositions whose vectors are differentiated by a rule of your choice; values are exact anyway.",
    ),
    Concept(
        "rules",
        "Gradient rules",
        ("gradients",),
        "Each is one choice of the matrix K of weights, a frozen value with two methods, `kernel` and `bound`. "
        "[Which one?](../choosing.md) [Why?](../theory.md)",
    ),
    Concept(
        "functions",
        "Functions of a matrix",
        ("matrix_functions",),
        "Of eigenvalues or of singular values: exact where they meet, no rule needed.",
    ),
    Concept(
        "covariances",
        "Covariances and their geometry",
        ("spd",),
        "Distances, means, transport and the equations behind them, for symmetric positive definite matrices.",
    ),
    Concept(
        "layers",
        "Layers",
        ("nn",),
        "Modules with the contract of `nn.BatchNorm2d`, the functions behind them, the way into a network and out.",
    ),
    Concept(
        "solvers",
        "Solvers and the kernels",
        ("solvers", "native", "gpu", "configuration"),
        'A solver is a forward algorithm; any goes with any rule. `"auto"` is right, unless you reproduce a paper.',
    ),
    Concept(
        "diagnosis",
        "Diagnosis and testing",
        ("analysis", "testing"),
        "Questions to ask before differentiating, and tests for a rule or a loss of your own.",
    ),
)


def _modules(module: ModuleType = eigengrad) -> list[ModuleType]:
    """``module`` and the modules that it exports, outermost first, so that a name is listed where it is shortest."""
    values = [getattr(module, name) for name in getattr(module, "__all__", ())]
    inner = [value for value in values if inspect.ismodule(value) and value.__name__ not in INTERNAL]
    return [module, *(deeper for value in inner for deeper in _modules(value))]


def public_names() -> dict[str, object]:
    """Qualified name to object, each object once."""
    names: dict[str, object] = {}
    seen: list[object] = []
    for module in _modules():
        for name in getattr(module, "__all__", ()):
            value = getattr(module, name)
            described = inspect.isclass(value) or inspect.isroutine(value)
            if described and not any(value is other for other in seen):
                seen.append(value)
                names[f"{module.__name__}.{name}"] = value
    return names


def by_concept() -> dict[Concept, list[str]]:
    """Public names of each concept.

    Raises:
        ValueError: for a name that is defined in a module of no concept.
    """
    found: dict[Concept, list[str]] = {concept: [] for concept in CONCEPTS}
    for name, value in public_names().items():
        home = value.__module__.removeprefix("eigengrad.")
        for concept in CONCEPTS:
            if any(home == module or home.startswith(f"{module}.") for module in concept.modules):
                found[concept].append(name)
                break
        else:
            raise ValueError(
                f"{name} is defined in {value.__module__}: name that module in docs/sitekit/api.py, CONCEPTS"
            )
    return {concept: names for concept, names in found.items() if names}


def write(folder: Path) -> None:
    """A page for each concept, ``api-*.md``, in ``folder``."""
    folder.mkdir(exist_ok=True)
    concepts = by_concept()
    for concept, names in concepts.items():
        listing = "\n".join(f"   {'~' if name.count('.') == 1 else ''}{name}" for name in names)
        page = f"# {concept.title}\n\n{concept.text}\n\n"
        page += f"```{{eval-rst}}\n.. autosummary::\n   :toctree: ../api/names\n   :nosignatures:\n\n{listing}\n```\n"
        _write(folder / f"api-{concept.slug}.md", page)
    listing = "\n".join(f"api-{concept.slug}" for concept in concepts)
    total = sum(map(len, concepts.values()))
    _write(
        folder / "api.md",
        f"# Every public name\n\n{total} names of eigengrad {eigengrad.__version__}, by concept.\n\n"
        f"```{{toctree}}\n:maxdepth: 2\n\n{listing}\n```\n",
    )


def _write(path: Path, text: str) -> None:
    """Unless it is there already, so that Sphinx does not read it again."""
    if not path.exists() or path.read_text() != text:
        path.write_text(text)
