"""What every differentiable function of this package is made of."""

import functools
import inspect
import types
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, ClassVar, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch._C import _functorch as functorch
from torch._C._functorch import unwrap_if_dead
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import get_proxy_mode

__all__ = [
    "Function",
    "along",
    "constant",
    "has_autocast",
    "has_values",
    "hermitian_part",
    "is_traced",
    "observer",
    "public",
    "save",
]

P = ParamSpec("P")
T = TypeVar("T")


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
        # torch asks for it in every call under a transform, and inspect takes its time.
        cls.forward.__signature__ = inspect.signature(cls.forward)  # type: ignore[attr-defined]
        if "jvp" not in vars(cls):

            def jvp(ctx: Any, *tangents: Any) -> Any:
                with forward_ad._set_fwd_grad_enabled(True):
                    return cls.push_forward(_AtThePoint(ctx), *tangents)

            with_jvp = {"jvp": staticmethod(jvp)}
            cls._twin = types.new_class(cls.__name__, (cls,), exec_body=lambda namespace: namespace.update(with_jvp))
            # Otherwise torch looks in every backward pass which of its two names the subclass has used.
            cls._twin._backward_cls.apply = cls.backward  # type: ignore[attr-defined]

    @classmethod
    def call(cls, *arguments: Any) -> Any:
        """As ``apply``, whose checks of the signature take longer than a small decomposition; and without a derivative,
        where nobody can ask for one."""
        if torch.compiler.is_compiling():
            if _is_differentiated_by_transform():
                torch._dynamo.graph_break(msg=_INLINED)
            return cls.apply(*arguments)
        if torch._C._are_functorch_transforms_active():
            return cls.forward(*arguments) if _only_functionalized(arguments) else cls._twin.apply(*arguments)
        if forward_ad._current_level < 0 and not _wants_gradient(arguments):
            return cls.forward(*arguments)
        return super(torch.autograd.Function, cls._twin).apply(  # type: ignore[misc]
            *[unwrap_if_dead(value) if isinstance(value, Tensor) else value for value in arguments]
        )

    @staticmethod
    def forward(*arguments: Any) -> Any:
        """The outputs from the inputs."""
        raise NotImplementedError

    @staticmethod
    def push_forward(ctx: Any, *tangents: Any) -> Any:
        """Tangents of the outputs from those of the inputs, as ``jvp``."""
        raise NotImplementedError


def save(ctx: Any, *tensors: Tensor) -> None:
    """Keep tensors for ``backward`` and, where someone asks for forward mode, ``push_forward``."""
    ctx.save_for_backward(*tensors)
    if forward_ad._current_level >= 0 or torch.compiler.is_compiling():
        ctx.save_for_forward(*tensors)


def _wants_gradient(arguments: tuple[Any, ...]) -> bool:
    if torch.is_grad_enabled():
        for argument in arguments:
            if isinstance(argument, Tensor) and argument.requires_grad:
                return True
    return False


_INLINED = (
    "eigengrad: in a compiled function, torch.func.grad, vjp, jacrev or jvp would differentiate what this function is "
    "made of, not use its own derivative (pytorch issue 193279); compile without fullgraph=True"
)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _is_differentiated_by_transform() -> bool:
    """Whether ``torch.func`` takes derivatives around this call, seen as a compiler traces it."""
    kinds = functorch.TransformType
    stack = functorch.get_interpreter_stack() or ()
    return any(level.key() in (kinds.Grad, kinds.Jvp) for level in stack)


def _only_functionalized(arguments: tuple[Any, ...]) -> bool:
    """Whether ``torch.func.functionalize``, which torch does not take through a Function, is the only transform."""
    stack = functorch.get_interpreter_stack()
    functionalize = functorch.TransformType.Functionalize
    return all(level.key() == functionalize for level in stack) and not _wants_gradient(arguments)


class _AtThePoint:
    """A ``ctx`` whose saved tensors are those at the point, without their own tangents.

    torch (2.13, its issue 197867) calls ``jvp`` with forward mode switched off, so that another one around this sees
    constants, and a nested ``jvp`` gives wrong numbers. Switched on again, it must not follow the tangents at hand.
    """

    def __init__(self, ctx: Any) -> None:
        self._ctx = ctx

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ctx, name)

    @property
    def saved_tensors(self) -> tuple[Tensor | None, ...]:
        return tuple(None if tensor is None else _primal(tensor) for tensor in self._ctx.saved_tensors)


def _primal(tensor: Tensor) -> Tensor:
    """Without the tangent of the innermost forward mode, which unpack_dual does not see through a vmap inside of it."""
    level = functorch.maybe_get_level(tensor)
    if functorch.is_batchedtensor(tensor):
        value = _primal(functorch.get_unwrapped(tensor))
        return functorch._add_batch_dim(value, functorch.maybe_get_bdim(tensor), level)
    return forward_ad.unpack_dual(tensor).primal


_AUTOCAST = tuple(
    device for device in ("cpu", "cuda", "xpu", "mps", "hpu", "mtia", "xla") if torch.amp.is_autocast_available(device)
)
"""Asked at import, for compilers: Dynamo of torch 2.11 cannot trace the question."""


def has_autocast(device: str) -> bool:
    """Whether devices of this type know autocast."""
    return device in _AUTOCAST or (not torch.compiler.is_compiling() and torch.amp.is_autocast_available(device))


def public(function: Callable[P, T]) -> Callable[P, T]:
    """``function`` as people call it.

    Half precision arguments are computed with in float32, and results are rounded to their dtype. Under autocast, which
    is off within, results stay in float32, as of ``torch.linalg``. A matrix without an eigendecomposition is a
    ``torch.linalg.LinAlgError``, as in torch.
    """

    @functools.wraps(function)
    def outside(*arguments: P.args, **options: P.kwargs) -> T:
        try:
            if not torch.compiler.is_compiling():
                if (look := observer.get()) is not None:
                    return _looked_at(look, outside, arguments, options)
                if not torch._C._is_any_autocast_enabled():  # quickly, as a rule
                    first = arguments[0] if arguments else next(iter(options.values()), None)
                    if getattr(first, "dtype", None) not in _HALF:
                        return function(*arguments, **options)
                    return _in_full(function, arguments, options)
            devices = [value.device.type for value in (*arguments, *options.values()) if isinstance(value, Tensor)]
            if not devices or not has_autocast(devices[0]) or not torch.is_autocast_enabled(devices[0]):
                return _in_full(function, arguments, options)
            with torch.autocast(devices[0], enabled=False):
                return function(*map(_widened, arguments), **{name: _widened(value) for name, value in options.items()})
        except RuntimeError as error:
            if type(error) is RuntimeError and str(error).startswith("eigengrad: matrix"):
                raise torch.linalg.LinAlgError(str(error)) from None
            raise

    return outside


observer: ContextVar[Any] = ContextVar("observer", default=None)
"""Who is to look at calls of public functions: called with the function, its name, arguments and options."""


def _looked_at(look: Any, function: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """The call by way of an observer, who looks at none of those within it."""
    token = observer.set(None)
    try:
        return look(function, function.__name__, arguments, options)
    finally:
        observer.reset(token)


_HALF = (torch.float16, torch.bfloat16)


def _in_full(function: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """What is of half precision in float32, and results as the first argument is."""
    dtype = getattr(arguments[0] if arguments else next(iter(options.values()), None), "dtype", None)
    result = function(*map(_widened, arguments), **{name: _widened(value) for name, value in options.items()})
    if dtype not in _HALF:
        return result
    return result.to(dtype) if isinstance(result, Tensor) else type(result)(*(part.to(dtype) for part in result))


def _widened(value: Any) -> Any:
    half = isinstance(value, Tensor) and value.dtype in _HALF
    return value.to(torch.float32) if half else value


def is_traced() -> bool:
    """Whether operators are recorded, by a compiler or ``make_fx``, to run later, on other values."""
    return torch.compiler.is_compiling() or get_proxy_mode() is not None


def has_values(*tensors: Tensor) -> bool:
    """Whether these can be looked at without waiting, and without one operator more for a tracer or a mode."""
    if is_traced() or not all(tensor.is_cpu for tensor in tensors) or torch._C._len_torch_dispatch_stack() > 0:
        return False
    return all(
        type(tensor) in (Tensor, torch.nn.Parameter)
        and not functorch.is_functorch_wrapped_tensor(tensor)
        and not functorch.is_legacy_batchedtensor(tensor)
        for tensor in tensors
    )


def along(function: Callable[..., Tensor], at: tuple[Tensor, ...], tangents: tuple[Tensor, ...]) -> Tensor:
    """The derivative of a function of tensors along tangents, within a ``push_forward``.

    torch's plain forward mode does not nest: within it, by reverse mode twice.
    """
    if torch._C._are_functorch_transforms_active():
        derivative: Tensor = torch.func.jvp(function, at, tangents)[1]
        return derivative
    value, pull_back = torch.func.vjp(function, *at)  # type: ignore[misc]
    again: Any = torch.func.vjp(pull_back, torch.zeros_like(value))[1]
    derivative = again(tangents)[0]
    return derivative


def constant(*outputs: Tensor) -> tuple[Tensor, ...]:
    """Tangents of outputs without a derivative. (Those that are marked so break ``jvp`` of ``vmap``, torch 2.13.)"""
    return tuple(torch.zeros_like(output) for output in outputs)


def hermitian_part(X: Tensor) -> Tensor:
    """``(X + X^H)/2``: a cotangent as the functions of Hermitian matrices see it, and the tangent they follow."""
    return (X + X.mH) / 2
