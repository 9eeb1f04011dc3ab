"""Methods: the rows of every table. The paper's systems and baseline, their fair rivals, and rows of the user's own.

A method is a name and the fields of a :class:`RunConfig` that make it. The paper's systems are pairs of a solver
forward and a gradient backward (``models.extra_layer``); a rival is such a pair with another rule, or with a remedy for
bad gradients. Free of torch.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from eigengrad_lab import parts
from eigengrad_lab.config import RunConfig, UsageError, is_reference

__all__ = ["COMPARED", "METHODS", "RIVALS", "Method", "colour", "in_order", "label", "own_method", "settings_of"]

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Method:
    """A row that this laboratory knows by name."""

    label: str
    colour: str
    """In figures: Okabe and Ito's colours, which people of every colour vision can tell apart; rivals in others."""
    about: str
    settings: Settings = field(default_factory=dict)
    """Fields of its configurations that are not the defaults."""


METHODS = {
    "batchnorm": Method("BatchNorm", "#777777", "the paper's baseline", {"layer": None}),
    "svd": Method("SVD", "#D55E00", "SVD forward, the exact gradient backward"),
    "pi": Method("PI", "#E69F00", "power iteration from a random start, unrolled"),
    "ours": Method("ours", "#0072B2", "the paper's method: SVD forward, the gradient of power iteration backward"),
    "closed-form": Method("closed form", "#009E73", "the exact derivative of the whole matrix function"),
    "qr": Method("QR", "#CC79A7", "QR iteration forward, the exact gradient backward"),
    "svd-clipped": Method(
        "SVD + clipping", "#8C564B", "svd with the total gradient norm clipped at 1", {"clip_norm": 1.0}
    ),
    "svd-skip": Method(
        "exact + skip bad steps", "#7F7F00", "svd without the steps that are not finite", {"bad_steps": "skip"}
    ),
    "svd-taylor": Method(
        "SVD + Taylor", "#56B4E9", "SVD forward, Taylor(9) backward", {"gradient": "eigengrad:Taylor(degree=9)"}
    ),
    "svd-lorentzian": Method(
        "SVD + Lorentzian",
        "#9467BD",
        "SVD forward, a Lorentzian of relative width 3.5e-4 backward",
        {"gradient": "eigengrad:Lorentzian(width=3.5e-4)"},
    ),
}
"""In the order of every table and legend. "ours" is the paper's own name for its method."""

COMPARED = ("batchnorm", "svd", "pi", "ours", "closed-form")
"""What Tables 1 and 2 compare by default."""
RIVALS = ("svd-clipped", "svd-skip", "svd-taylor", "svd-lorentzian")
"""Answers to exploding gradients that are not the paper's: what does its idea add to them?"""

OTHERS = ("#B8336A", "#2A7F62", "#6A4C93", "#C05746", "#4A7A9C", "#A07800")
"""Colours of rows of the user's own."""
KEYS = ("gradient", "solver", "layer", "clip_norm", "bad_steps", "iterations", "eps")
"""What may follow the name of such a row."""


def label(name: str) -> str:
    """In tables and legends."""
    return METHODS[name].label if name in METHODS else name


def colour(name: str) -> str:
    """In figures."""
    if name in METHODS:
        return METHODS[name].colour
    return OTHERS[hashlib.sha256(name.encode()).digest()[0] % len(OTHERS)]


def in_order(names: Iterable[str]) -> list[str]:
    """Each once, the known ones first and in their order."""
    unique = list(dict.fromkeys(names))
    return [name for name in METHODS if name in unique] + [name for name in unique if name not in METHODS]


def settings_of(name: str, option: str = "--methods") -> Settings:
    """The fields of a known method.

    Raises:
        UsageError: if there is no such method.
    """
    if name not in METHODS:
        raise UsageError(
            f"{option}: unknown {name!r}{parts.did_you_mean(name, METHODS)}; known are {', '.join(METHODS)}"
        )
    return METHODS[name].settings


def own_method(text: str, option: str = "--method") -> tuple[str, Settings]:
    """A row of the user's own: ``half=my_module:Half``, ``mine=layer=my_module:make``, or
    ``half=my_module:Half,solver=qr,clip_norm=1``.

    Returns:
        Its name, and the fields of its configurations.

    Raises:
        UsageError: for another form, or a reference to nothing.
    """
    name, equals, rest = text.partition("=")
    if not equals or not rest:
        raise UsageError(f"{option} {text}: not of the form NAME=module:object, such as half=my_module:Half")
    if not name.replace("-", "").replace("_", "").isalnum() or name in METHODS:
        known = "is a method of the laboratory" if name in METHODS else "must be letters, digits, - and _"
        raise UsageError(f"{option} {text}: the name {name!r} {known}")
    settings: dict[str, Any] = {}
    for position, word in enumerate(_split(rest)):
        key, is_pair, value = word.partition("=")
        if not is_pair or key.partition(":")[1] or "(" in key:
            if position:
                raise UsageError(f"{option} {text}: {word!r} must be KEY=VALUE, with one of {', '.join(KEYS)}")
            key, value = "gradient", word
        key = key.replace("-", "_")
        if key not in KEYS:
            raise UsageError(
                f"{option} {text}: unknown {key!r}{parts.did_you_mean(key, KEYS)}; known are {', '.join(KEYS)}"
            )
        settings[key] = _value(key, value, option)
    return name, settings


def _value(key: str, value: str, option: str) -> Any:
    if key in ("gradient", "layer") and not is_reference(value):
        raise UsageError(f"{option}: {key} must be module:object, got {value!r}")
    if is_reference(value):
        return parts.canonical(value, option)
    try:
        kind = {"clip_norm": float, "eps": float, "iterations": int}.get(key, str)
        return kind(value)
    except ValueError as error:
        raise UsageError(f"{option}: {key} must be a number, got {value!r}") from error


def _split(text: str) -> list[str]:
    """At commas outside of parentheses."""
    words, depth = [""], 0
    for letter in text:
        depth += (letter == "(") - (letter == ")")
        if letter == "," and depth == 0:
            words.append("")
        else:
            words[-1] += letter
    return words


def is_plain(config: RunConfig, name: str, value: object) -> bool:
    """Whether a field has the value that the configuration's method gives it."""
    settings = METHODS[config.method].settings if config.method in METHODS else {}
    return name in settings and settings[name] == value
