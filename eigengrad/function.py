"""What every differentiable function of this package is made of."""

import inspect
import types
from typing import Any, ClassVar

import torch
from torch import Tensor

__all__ = ["Function", "hermitian_part"]


class Function(torch.autograd.Function):
    """A ``torch.autograd.Function`` with forward mode, under ``torch.func`` and ``torch.compile`` alike.

    A subclass defines ``forward``, ``setup_context``, ``backward`` and, for forward mode, ``push_forward`` in place of
    ``jvp``. Dynamo refuses a Function that defines ``jvp`` once gradients flow (torch 2.13), so the one called ``jvp``
    lives in a twin that :meth:`call` uses outside of a compiler.
    """

    generate_vmap_rule = True
    _twin: ClassVar[type[torch.autograd.Function]]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        # torch asks for it in every call, and inspect takes longer than a small decomposition.
        cls.forward.__signature__ = inspect.signature(cls.forward)  # type: ignore[attr-defined]
        if "jvp" not in vars(cls):
            with_jvp = {"jvp": staticmethod(cls.push_forward)}
            cls._twin = types.new_class(cls.__name__, (cls,), exec_body=lambda namespace: namespace.update(with_jvp))

    @classmethod
    def call(cls, *arguments: Any) -> Any:
        """As ``apply``."""
        return (cls if torch.compiler.is_compiling() else cls._twin).apply(*arguments)

    @staticmethod
    def push_forward(ctx: Any, *tangents: Any) -> Any:
        """Tangents of the outputs from those of the inputs, as ``jvp``."""
        raise NotImplementedError


def hermitian_part(X: Tensor) -> Tensor:
    """``(X + X^H)/2``: a cotangent as the functions of Hermitian matrices see it, and the tangent they follow."""
    return (X + X.mH) / 2
