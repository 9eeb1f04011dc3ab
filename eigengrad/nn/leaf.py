"""Layers are leaves of ``torch.fx.symbolic_trace``, as those of ``torch.nn`` are: its graph calls them."""

from typing import Any

from torch import Tensor, fx, nn

__all__ = ["as_leaf", "is_proxy"]


def is_proxy(x: Any) -> bool:
    """Whether ``x`` stands for a tensor in a symbolic trace."""
    return isinstance(x, fx.Proxy)


def as_leaf(layer: nn.Module, *arguments: Any) -> Tensor:
    """The call of ``layer`` as a node of the graph."""
    tracer: Any = arguments[0].tracer
    called: Tensor = tracer.create_proxy("call_module", tracer.path_of_module(layer), arguments, {})
    return called
