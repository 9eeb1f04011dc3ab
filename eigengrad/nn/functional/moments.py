"""The passes over the data behind whitening: moments, then an affine map; two passes forward, two backward.

Data is ``(B, G, d, M)``, as in :mod:`eigengrad.nn.functional.channel_groups`. What lies between the passes, from the
covariance to the matrix T, is small, and ordinary autograd:

    data -> mean, covariance -> T -> T (data - mean) + offset.

Each pass works on pieces that fit a core's cache, in an operator of the kernel or here. So nothing of the data's size
is kept besides input and output, data far from zero is centred exactly, and half precision is widened piece by piece.
With ``m = B M`` observations and ``S = (gC + gC^T) / m``, the passes backward are

    first:    gT = sum g (x - mean)^T,   g_offset = sum g,   g_mean = -T^T g_offset,   gx  = T^T g
    second:                                                                            gx += S (x - mean) + g_mean / m

Second derivatives, forward mode and ``torch.func`` use the same formulas on the whole of the data, differentiably.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch._C import _functorch as functorch
from torch._subclasses import FakeTensor

from eigengrad import gpu, native
from eigengrad.autograd import Function, has_autocast, is_traced, save
from eigengrad.native import operators
from eigengrad.nn.functional.channel_groups import Layout

__all__ = ["affine", "full_precision", "moments", "working_dtype"]

MOST_CHANNELS = 256
"""Of a group that takes one pass: beyond, a panel of the data no longer fits the cache."""
CACHE = 2**20
"""Bytes of a piece for each thread on CPU, so that its core still has them in its cache at the second reading."""
LARGE = 2**28
"""Bytes of a piece elsewhere, where a launch costs more than memory traffic; it bounds the memory of temporaries."""


def moments(data: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean ``(G, d, 1)`` and biased covariance ``(G, d, d)`` of ``data (B, G, d, M)``, zero where nothing was observed.

    Returns:
        The mean, the covariance, and the data once more, to be the ``route`` of :func:`affine`: by it, the gradient in
        the data arrives here and is completed in place.
    """
    if _left_to_torch(data):
        wide = data.to(working_dtype(data))
        mean = wide.sum(dim=(0, 3)).unsqueeze(-1) / _observations(data)
        centred = wide - mean
        return mean, _gram(centred, centred) / _observations(data), data
    return _Moments.call(data)


def affine(
    data: Tensor, T: Tensor, mean: Tensor, offset: Tensor, layout: Layout, *, route: Tensor | None = None
) -> Tensor:
    """``T (data - mean) + offset`` for ``T (G, d, d)``, ``mean`` and ``offset (G, d, 1)``, in the dtype of the data.

    The result is arranged back by the ``layout`` of the data. ``route`` is the third result of :func:`moments`, where T
    comes from there, and used nowhere else.
    """
    if _left_to_torch(data):
        return layout.arrange_back((T @ (data.to(T.dtype) - mean) + offset).to(data.dtype))
    return _Affine.call(route, data, T, mean, offset, layout)


def working_dtype(data: Tensor) -> torch.dtype:
    """What moments and matrices are computed in: float32 for half precision."""
    return torch.promote_types(data.dtype, torch.float32)


def full_precision(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """No autocast, on devices that know it."""
    return torch.autocast(device.type, enabled=False) if has_autocast(device.type) else contextlib.nullcontext()


class _Moments(Function):
    generate_vmap_rule = False

    @staticmethod
    def forward(data: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if _in_one_pass(data):
            mean, scatter = operators.moments(data)
            return mean, scatter / _observations(data), data.view_as(data)
        _, G, d, _ = data.shape
        dtype = working_dtype(data)
        mean, scatter = data.new_zeros(G, d, 1, dtype=dtype), data.new_zeros(G, d, d, dtype=dtype)
        seen, centred = 0, None
        for (piece,) in _pieces(data):
            count = _observations(piece)
            wide = piece.to(dtype)
            piece_mean = wide.sum(dim=(0, 3)).unsqueeze(-1) / count
            centred = _centred(wide, piece_mean, centred)
            scatter += _gram(centred, centred)
            away = piece_mean - mean
            seen += count
            if seen > count:
                scatter += away @ away.mT * (count * (seen - count) / seen)
            mean += away * (count / seen)
        return mean, scatter / _observations(data), data.view_as(data)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor, Tensor]) -> None:
        save(ctx, inputs[0], output[0])

    @staticmethod
    def backward(ctx: Any, g_mean: Tensor, gC: Tensor, gx: Tensor) -> Tensor:
        data, mean = ctx.saved_tensors
        S, shift = (gC + gC.mT) / _observations(data), g_mean / _observations(data)
        # NaN in the data of a group that was passed on as it is (S = 0) must not spread by way of the mean.
        centre = torch.nan_to_num(mean, 0.0, 0.0, 0.0)
        with full_precision(data.device):
            if torch.is_grad_enabled():
                return gx + (S @ (data.to(S.dtype) - centre) + shift).to(gx.dtype)
            # Nobody else holds gx: _Affine.backward has just made it, and the route has no other reader.
            if _in_one_pass(gx):
                operators.affine(gx, data, S, centre, shift, True)
                return gx
            centred = None
            for piece, total in _pieces(data, gx):
                centred = _centred(piece, centre, centred)
                _write(total, S, centred, shift, add=True)
        return gx

    @staticmethod
    def push_forward(ctx: Any, dx: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        data, mean = ctx.saved_tensors
        wide = dx.to(mean.dtype)
        half = _gram(wide, data.to(mean.dtype) - mean) / _observations(data)
        return wide.sum(dim=(0, 3)).unsqueeze(-1) / _observations(data), half + half.mT, dx.view_as(dx)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int], data: Tensor) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        """More matrices are more groups."""
        results = _Moments.call(_as_groups(data, in_dims[0], info.batch_size, 1))
        dims = (0, 0, 1)
        return tuple(r.unflatten(dim, (info.batch_size, -1)) for r, dim in zip(results, dims, strict=True)), dims


class _Affine(Function):
    """With a route, the gradient in the data goes by it; ``data`` itself is what derivatives of that gradient go by."""

    generate_vmap_rule = False

    @staticmethod
    def forward(route: Tensor | None, data: Tensor, T: Tensor, mean: Tensor, offset: Tensor, layout: Layout) -> Tensor:
        x, y = layout.empty(data)
        if _in_one_pass(data):
            operators.affine(y, data, T, mean, offset, False)
            return layout.filled(x, y)
        centred = None
        for piece, image in _pieces(data, y):
            centred = _centred(piece, mean, centred)
            _write(image, T, centred, offset)
        return layout.filled(x, y)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        route, data, T, mean, _, ctx.layout = inputs
        ctx.has_route = route is not None
        save(ctx, data, T, mean)

    @staticmethod
    def backward(ctx: Any, gx: Tensor) -> tuple[Tensor | None, ...]:
        data, T, mean = ctx.saved_tensors
        of_route, of_data, *others, _ = ctx.needs_input_grad
        needs_gx = of_route if ctx.has_route else of_data
        g = ctx.layout.arrange(gx)

        def cotangents(gx: Tensor | None, *others: Tensor | None) -> tuple[Tensor | None, ...]:
            return (gx, None, *others, None) if ctx.has_route else (None, gx, *others, None)

        with full_precision(data.device):
            if torch.is_grad_enabled():
                wide = g.to(T.dtype)
                gT, g_offset = _gram(wide, data.to(T.dtype) - mean), wide.sum(dim=(0, 3)).unsqueeze(-1)
                return cotangents((T.mT @ wide).to(g.dtype), gT, -T.mT @ g_offset, g_offset)
            gx = _empty_like(g) if needs_gx else g
            if _in_one_pass(g):
                gT, g_offset = operators.affine_backward(gx if needs_gx else None, data, g, T, mean)
                return cotangents(gx if needs_gx else None, gT, -T.mT @ g_offset, g_offset)
            gT, g_offset, centred = torch.zeros_like(T), torch.zeros_like(mean), None
            for piece, cotangent, image in _pieces(data, g, gx):
                wide = cotangent.to(T.dtype)
                if any(others):
                    centred = _centred(piece, mean, centred)
                    gT = gT + _gram(wide, centred)
                    g_offset = g_offset + wide.sum(dim=(0, 3)).unsqueeze(-1)
                if needs_gx:
                    _write(image, T.mT, wide)
            small = (gT, -T.mT @ g_offset, g_offset) if any(others) else (None, None, None)
            return cotangents(gx if needs_gx else None, *small)

    @staticmethod
    def push_forward(
        ctx: Any, d_route: Tensor | None, dx: Tensor, dT: Tensor, d_mean: Tensor, d_offset: Tensor, layout: None
    ) -> Tensor:
        data, T, mean = ctx.saved_tensors
        dx = dx if d_route is None else d_route
        moved = T @ (dx.to(T.dtype) - d_mean) + dT @ (data.to(T.dtype) - mean) + d_offset
        return ctx.layout.arrange_back(moved.to(data.dtype))

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> tuple[Tensor, int]:
        *tensors, layout = inputs
        folded = [
            None if tensor is None else _as_groups(tensor, dim, info.batch_size, axis)
            for tensor, dim, axis in zip(tensors, in_dims[:-1], (1, 1, 0, 0, 0), strict=True)
        ]
        return _Affine.call(*folded, layout.widened(info.batch_size)).unflatten(1, (info.batch_size, -1)), 1


def _left_to_torch(data: Tensor) -> bool:
    """Whether to take torch's operators on the whole of the data.

    A compiler fuses them by itself, for shapes that change as well, and would unroll the loop over pieces; an exported
    program, or one of TorchScript, must not need eigengrad.
    """
    whole = torch.compiler.is_compiling() or torch.jit.is_tracing()
    return whole or (is_traced() and not _in_one_pass(data))


def _in_one_pass(data: Tensor) -> bool:
    """Whether the operators of a kernel take ``data (B, G, d, M)``, and what is laid out like it: real.

    What ``torch.autograd.grad(is_grads_batched=True)`` maps over does not: no operator that writes in place.
    """
    if data.is_cuda:
        return not functorch.is_legacy_batchedtensor(data) and not isinstance(data, FakeTensor) and gpu.takes_data(data)
    return (
        native.available()
        and data.is_cpu
        and data.dtype in (torch.float32, torch.float64)
        and 0 < data.shape[2] <= MOST_CHANNELS
        and data.numel() > 0
        and not functorch.is_legacy_batchedtensor(data)
    )


def _pieces(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Matching parts of tensors ``(B, G, d, M)``: some images, or some observations of one."""
    B, G, d, M = tensors[0].shape
    memory = CACHE * torch.get_num_threads() if tensors[0].device.type == "cpu" else LARGE
    room = memory // (4 * G * d)  # in observations of float32
    images, observations = max(room // max(M, 1), 1), max(min(room, M), 1)
    for b in range(0, B, images):
        for m in range(0, M, observations):
            part = min(images, B - b), min(observations, M - m)
            yield tuple(tensor.narrow(0, b, part[0]).narrow(3, m, part[1]) for tensor in tensors)


def _centred(piece: Tensor, centre: Tensor, memory: Tensor | None) -> Tensor:
    """``piece - centre``, in the memory of the piece before if it fits: new memory costs more than the subtraction."""
    if memory is None or memory.shape != piece.shape:
        memory = torch.empty_like(piece, dtype=centre.dtype)
    if piece.dtype == centre.dtype:
        return torch.sub(piece, centre, out=memory)
    return memory.copy_(piece).sub_(centre)  # two fast loops: one over two dtypes is slow on CPU


def _write(image: Tensor, T: Tensor, wide: Tensor, offset: Tensor | None = None, *, add: bool = False) -> None:
    """``image = T wide + offset`` for a piece, or ``image +=`` the same, in place."""
    target = image
    if image.dtype != T.dtype:
        target = torch.empty_like(image, dtype=T.dtype)
        if add:
            target.copy_(image)
    if offset is not None:
        target.add_(offset) if add else target.copy_(offset)
    rows = T.expand(wide.shape[0], *T.shape).reshape(-1, *T.shape[1:])
    beta = 0 if offset is None and not add else 1
    target.view(-1, *target.shape[2:]).baddbmm_(rows, wide.reshape(-1, *wide.shape[2:]), beta=beta)
    if target is not image:
        image.copy_(target)


def _gram(a: Tensor, b: Tensor) -> Tensor:
    """``sum_b a b^T``, from ``(B, G, d, M)`` to ``(G, d, d)``."""
    return (a @ b.mT).sum(dim=0)


def _observations(data: Tensor) -> int:
    """How often each channel was observed, and 1 if never, to divide by."""
    return max(data.shape[0] * data.shape[3], 1)


def _empty_like(data: Tensor) -> Tensor:
    """Laid out so that any piece is a batch of matrices: like a single image's data, or contiguous."""
    return (
        torch.empty_like(data) if data.shape[0] == 1 else torch.empty_like(data, memory_format=torch.contiguous_format)
    )


def _as_groups(x: Tensor, dim: int | None, size: int, axis: int) -> Tensor:
    """A dimension that ``torch.func.vmap`` hides, or one of equal copies, as more groups along ``axis``."""
    wide = x.unsqueeze(axis).expand(*x.shape[:axis], size, *x.shape[axis:]) if dim is None else x.movedim(dim, axis)
    return wide.flatten(axis, axis + 1)
