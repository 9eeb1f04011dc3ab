"""Parts of the user's own, by import path: a gradient rule, a solver, a layer, a network.

A *reference* is ``module:object``, with arguments where the object is a class or function that takes some:
``my_module:Half``, ``my_module:Half(0.3)``, ``eigengrad:Taylor(degree=4)``. Modules are looked for where Python looks,
and in the folder where the command was given.

In records a reference ends with ``@`` and a digest of the module's source: a part that was changed makes other runs.
Free of torch, but for what a user's module imports.
"""

import ast
import difflib
import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from eigengrad_lab.config import UsageError

__all__ = ["called", "canonical", "did_you_mean", "load", "parameters", "short_name"]

OURS = ("eigengrad", "torch")
"""Packages whose version a record names anyway."""


def load(reference: str, option: str) -> Any:
    """The object of a reference; a class is called, without arguments where none are given.

    Args:
        reference: ``module:object``, ``module:object(arguments)``, either with a digest behind ``@``.
        option: where it was given, for messages: ``"--gradient"``.

    Raises:
        UsageError: if there is no such module or object, or it has another source than when it was recorded.
    """
    reference, _, digest = reference.partition("@")
    if digest and digest != _digest(_module(reference, option)):
        raise UsageError(f"{option} {reference}: its source has changed since this run was begun")
    found, arguments = _found(reference, option)
    if arguments is not None:
        positional, named = arguments
        try:
            return found(*positional, **named)
        except (TypeError, ValueError) as error:
            raise UsageError(f"{option} {reference}: {error}") from error
    if isinstance(found, type):
        try:
            return found()
        except TypeError as error:
            raise UsageError(f"{option} {reference}: it takes arguments, {reference}(...): {error}") from error
    return found


def called(reference: str, option: str, function: Any, *arguments: Any, **named: Any) -> Any:
    """What a function of the user's own returns; whatever it raises is said in a sentence.

    Raises:
        UsageError: if it raises anything.
    """
    try:
        return function(*arguments, **named)
    except UsageError:
        raise
    except Exception as error:
        plain = reference.partition("@")[0]
        raise UsageError(f"{option} {plain}: calling it fails: {type(error).__name__}: {error}") from error


def canonical(reference: str, option: str) -> str:
    """The reference as records have it, once it is sure that there is such a thing."""
    reference = reference.partition("@")[0]
    _found(reference, option)
    module = reference.partition(":")[0]
    return reference if module.partition(".")[0] in OURS else f"{reference}@{_digest(_module(reference, option))}"


def parameters(reference: str, option: str) -> frozenset[str]:
    """Names of the arguments that the function of a reference takes."""
    found, _ = _found(reference.partition("@")[0], option)
    try:
        return frozenset(inspect.signature(found).parameters)
    except (TypeError, ValueError):
        return frozenset()


def short_name(reference: str) -> str:
    """What a reference is called where no name was given: the object's own, of letters, digits and underscores."""
    name = reference.partition("@")[0].partition(":")[2]
    return "".join(letter if letter.isalnum() else "_" for letter in name).strip("_")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``" (did you mean 'x'?)"``, or nothing if nothing is like ``word``."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _found(reference: str, option: str) -> tuple[Any, tuple[list[Any], dict[str, Any]] | None]:
    module, _, expression = reference.partition(":")
    loaded = _module(reference, option)
    try:
        parsed = ast.parse(expression, mode="eval").body
        call = parsed if isinstance(parsed, ast.Call) else None
        name = ast.unparse(call.func if call else parsed)
        if not all(part.isidentifier() for part in name.split(".")):
            raise ValueError(name)
        arguments = None
        if call is not None:
            positional = [ast.literal_eval(value) for value in call.args]
            arguments = positional, {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
    except (SyntaxError, ValueError) as error:
        raise UsageError(
            f"{option} {reference}: not of the form module:object or module:object(numbers, strings)"
        ) from error
    found: Any = loaded
    for part in name.split("."):
        if not hasattr(found, part):
            raise UsageError(f"{option}: {module} has no {name}{did_you_mean(part, vars(found))}")
        found = getattr(found, part)
    return found, arguments


def _module(reference: str, option: str) -> ModuleType:
    name = reference.partition(":")[0]
    if str(Path.cwd()) not in sys.path and "" not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and name.startswith(error.name):
            here = [path.stem for path in Path.cwd().glob("*.py")]
            raise UsageError(
                f"{option} {reference}: no module {name} here or installed{did_you_mean(name, here)}"
            ) from error
        raise UsageError(f"{option} {reference}: importing {name} fails: {error}") from error
    except (Exception, SystemExit) as error:  # a user's module may raise anything, and a script may end itself
        raise UsageError(f"{option} {reference}: importing {name} fails: {type(error).__name__}: {error}") from error


def _digest(module: ModuleType) -> str:
    """Of the source; of the name where there is none."""
    path = getattr(module, "__file__", None)
    content = Path(path).read_bytes() if path and Path(path).is_file() else module.__name__.encode()
    return hashlib.sha256(content).hexdigest()[:6]
