"""Whether covariances are finite, without making the host wait for a device more often than it does anyway.

On a CPU the answer is there at once. On CUDA, to ask ``bool(tensor)`` stops the host until the device has done all that
was queued. So there the answer travels to the host on its own, through page-locked memory, while the decomposition runs
on covariances whose bad members have been replaced by the identity; and it is read afterwards. Torch's decompositions
have waited for the device by then, to look at their error codes. Our own kernels and power iteration never wait, and
may leave the answer on its way. Then the result is NaN where a covariance was not finite, by the mean or by
:meth:`FiniteCheck.finish`, and the error comes with the first question that is asked after the answer has arrived.

While a CUDA graph is captured nothing may travel. What is not finite is NaN there, in every replay.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._subclasses import FakeTensor

from eigengrad import solvers
from eigengrad.autograd import Function, is_traced

__all__ = ["FiniteCheck", "unchecked"]


class FiniteCheck:
    """One question: :meth:`ask` before the decomposition, :meth:`settle` or :meth:`finish` after it.

    A compiled, traced or captured graph cannot ask: there, what is not finite becomes NaN, and :attr:`finite` keeps it
    from running estimates.

    Args:
        describe: what the covariance of a given index is of, for the error message.

    Attributes:
        finite: which covariances are, ``(B,)``; or ``None`` where the host knows that all of them are.
    """

    def __init__(self, describe: Callable[[int], str]) -> None:
        self._describe = describe
        self.finite: Tensor | None = None
        self._answer: _Answer | None = None

    def ask(self, finite: Tensor) -> None:
        """Of ``finite (B,)``: which covariances are. LAPACK takes infinity, and small matrices of NaN, unmoved, so it
        cannot be relied upon to ask.

        Raises:
            torch.linalg.LinAlgError: if one is not, where that is known at once; or was not, in an earlier call.
        """
        if finite.is_meta:
            return
        if not (is_traced() or torch.jit.is_tracing() or _is_captured(finite)):
            _raise_for_earlier()
            finite = _Asked.call(finite, self, finite.shape[0])
            if self._answer is None:
                return
        self.finite = finite

    def ask_of(self, covariance: Tensor) -> Tensor:
        """What to decompose in place of ``covariance (B, d, d)``: itself, or on CUDA its finite members."""
        self.ask(covariance.isfinite().flatten(1).all(dim=1))
        if self.finite is None:
            return covariance
        identity = torch.eye(covariance.shape[-1], dtype=covariance.dtype, device=covariance.device)
        return torch.where(self.finite[..., None, None], covariance, identity)

    def settle(self, matrices: int) -> bool:
        """Read the answer, if it has arrived; about so many. Returns whether all are known to be finite.

        Raises:
            torch.linalg.LinAlgError: if a covariance is not finite.
        """
        if self.finite is None:
            return True
        finite = None if self._answer is None else self._answer.read()
        if finite is None:
            if self._answer is not None:
                _travelling.append((self, self._answer, matrices))
            return False
        self.raise_if_bad(finite, matrices)
        return True

    def finish(self, result: Tensor) -> Tensor:
        """``result (B, d, d)`` of the decomposition, NaN where that is not known.

        Raises:
            torch.linalg.LinAlgError: if a covariance is not finite.
        """
        if self.settle(result.shape[0]):
            return result
        assert self.finite is not None
        return torch.where(self.finite[..., None, None], result, torch.nan)

    def send(self, finite: Tensor, matrices: int) -> None:
        """Learn which are finite ``(B,)``, of which each ``matrices`` are one vmapped sample's: now, or later."""
        if isinstance(finite, FakeTensor):
            return
        if _in_background(finite):
            self._answer = _Answer(finite)
        else:
            self.raise_if_bad(finite, matrices)

    def raise_if_bad(self, finite: Tensor, matrices: int) -> None:
        """Raise if not all are finite. Reads ``finite`` on the host."""
        if not finite.all():
            bad = sorted({index % matrices for index in finite.logical_not().nonzero().flatten().tolist()})
            raise torch.linalg.LinAlgError(
                f"the covariance of {', '.join(map(self._describe, bad))} is not finite. Look for NaN, infinity or "
                "overflow in the layer's input, or pass errors='skip' to leave such a part of it unchanged"
            )


_travelling: list[tuple[FiniteCheck, "_Answer", int]] = []
"""Answers that had not arrived when their results were made, in the order of their questions."""


def _raise_for_earlier() -> None:
    """Look at those that have arrived since."""
    while _travelling and (finite := _travelling[0][1].read()) is not None:
        check, _, matrices = _travelling.pop(0)
        check.raise_if_bad(finite, matrices)


def unchecked(solver: Any, covariance: Tensor) -> Any:
    """The default solver without its own look at what is not finite, where that would wait, and has been replaced."""
    return solvers.resolve(solver, "nan") if solver == "auto" and _in_background(covariance) else solver


def _is_captured(tensor: Tensor) -> bool:
    return tensor.is_cuda and torch.cuda.is_current_stream_capturing()


def _in_background(tensor: Tensor) -> bool:
    return tensor.is_cuda


class _Answer:
    """A tensor on its way from a CUDA device to the host, in the order of the device's current stream."""

    def __init__(self, tensor: Tensor) -> None:
        self._here = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)
        self._arrival = torch.cuda.Event()
        self._arrival.record(torch.cuda.current_stream(tensor.device))

    def read(self) -> Tensor | None:
        """The tensor, on the host; or None as long as it has not arrived."""
        return self._here if self._arrival.query() else None


class _Asked(Function):
    """The identity of which are finite. A function, since there a tensor is itself even under ``torch.func``."""

    generate_vmap_rule = False

    @staticmethod
    def forward(finite: Tensor, check: FiniteCheck, matrices: int) -> Tensor:
        check.send(finite, matrices)
        return finite.view_as(finite)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.mark_non_differentiable(output)

    @staticmethod
    def backward(ctx: Any, _: None) -> tuple[None, None, None]:
        return None, None, None

    @staticmethod
    def push_forward(ctx: Any, *_: None) -> None:
        return None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int, None, None], finite: Tensor, *others: Any) -> tuple[Tensor, int]:
        return _Asked.call(finite.movedim(in_dims[0], 0).flatten(0, 1), *others).unflatten(0, (info.batch_size, -1)), 0
