"""The passes over the data behind whitening: moments, then an affine map; two passes forward, two backward.

Data is ``(B, G, d, M)``, as in :mod:`eigengrad.nn.functional.channel_groups`. What lies between the passes, from the
covariance to the matrix T, is small, and ordinary autograd:

    data -> mean, covariance -> T -> T (data - mean) + offset.

Each pass works on pieces that fit a core's cache, in an operator of the kernel or here. So nothing of the data's size
is kept besides input and output, data far from zero is centred exactly, and half precision is widened piece by piece.
With ``m = B M`` observations and ``S = (gC + gC^T) / m``, the passes backward are

    first:    gT = sum g (x - mean)^T,   g_offset = sum g,   g_mean = -T^T g_offset,   gx  = T^T g
    second:                                                                            gx += S (x - mean) + g_mean / m

with the rows of T scaled, by what the layer learns. What is small lies in the operators as well, where it can:
shrinkage and the spectrum's floor (:mod:`eigengrad.conditioning`) belong to the moments.

Second derivatives, forward mode and ``torch.func`` use the same formulas on the whole of the data, differentiably.
"""

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._C import _functorch as functorch
from torch._subclasses import FakeTensor

from eigengrad import gpu, native
from eigengrad.autograd import Function, constant, has_autocast, is_traced, save
from eigengrad.conditioning import AS_OBSERVED, Conditioning
from eigengrad.native import operators, passes
from eigengrad.nn.functional.channel_groups import Layout

__all__ = ["Moments", "affine", "full_precision", "is_replayed", "moments", "working_dtype"]

MOST_CHANNELS = 256
"""Of a group that takes one pass: beyond, a panel of the data no longer fits the cache."""
CACHE = 2**20
"""Bytes of a piece for each thread on CPU, so that its core still has them in its cache at the second reading."""
LARGE = 2**28
"""Bytes of a piece elsewhere, where a launch costs more than memory traffic; it bounds the memory of temporaries."""


class Moments(NamedTuple):
    """As :class:`eigengrad.conditioning.Conditioned`, and the data once more."""

    mean: Tensor
    covariance: Tensor
    shrunk: Tensor
    """Without a derivative."""
    A: Tensor
    finite: Tensor
    route: Tensor
    """For :func:`affine`: by it, the gradient in the data arrives here and is completed in place."""


def moments(data: Tensor, by: Conditioning = AS_OBSERVED) -> Moments:
    """Of ``data (B, G, d, M)``; zero where nothing was observed."""
    if _left_to_torch(data):
        wide = data.to(working_dtype(data))
        mean = wide.sum(dim=(0, 3)).unsqueeze(-1) / _observations(data)
        centred = wide - mean
        return Moments(*by.apply(mean, _gram(centred, centred) / _observations(data), _observations(data)), data)
    return Moments(*_Moments.call(data, by))


def affine(
    data: Tensor,
    T: Tensor,
    mean: Tensor,
    scale: Tensor | None,
    offset: Tensor | None,
    layout: Layout,
    *,
    route: Tensor | None = None,
) -> Tensor:
    """``scale (T (data - mean)) + offset`` for ``T (G, d, d)`` and the others ``(G, d, 1)``, in the dtype of the data.

    The result is arranged back by the ``layout`` of the data. ``route`` is that of :func:`moments`, where T comes from
    there, and used nowhere else.
    """
    if _left_to_torch(data):
        y = _scaled(T, scale) @ (data.to(T.dtype) - mean)
        return layout.arrange_back((y if offset is None else y + offset).to(data.dtype))
    return _Affine.call(route, data, T, mean, scale, offset, layout)


def working_dtype(data: Tensor) -> torch.dtype:
    """What moments and matrices are computed in: float32 for half precision."""
    return torch.promote_types(data.dtype, torch.float32)


def full_precision(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """No autocast, on devices that know it."""
    return torch.autocast(device.type, enabled=False) if has_autocast(device.type) else contextlib.nullcontext()


class _Moments(Function):
    generate_vmap_rule = False

    @staticmethod
    def forward(data: Tensor, by: Conditioning) -> tuple[Tensor, ...]:
        if _in_one_pass(data):
            return *operators.moments(data, *by), data.view_as(data)
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
        return *by.apply(mean, scatter / _observations(data), _observations(data)), data.view_as(data)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        data, ctx.by = inputs
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(output[4])
        save(ctx, data, *output[:2])

    @staticmethod
    def backward(
        ctx: Any, g_mean: Tensor | None, gC: Tensor | None, _: None, gA: Tensor | None, __: None, gx: Tensor | None
    ) -> tuple[Tensor | None, None]:
        data, mean, C = ctx.saved_tensors
        if g_mean is None and gC is None and gA is None:
            return gx, None
        with full_precision(data.device):
            if torch.is_grad_enabled():
                centred = data.to(mean.dtype) - mean
                C = _gram(centred, centred) / _observations(data)  # with its derivative
                own = passes.of_moments(data, mean, C, (g_mean, gC, gA), ctx.by).to(data.dtype)
                return own if gx is None else gx + own, None
            # Nobody else holds gx: _Affine.backward has just made it, and the route has no other reader.
            gx = torch.zeros_like(data) if gx is None else gx
            if _in_one_pass(gx):
                operators.moments_backward(gx, data, mean, C, g_mean, gC, gA, ctx.by.shrinkage, ctx.by.relative_eps)
                return gx, None
            S, centre, shift = passes.pulled_back(mean, C, (g_mean, gC, gA), _observations(data), ctx.by)
            centred = None
            for piece, total in _pieces(data, gx):
                centred = _centred(piece, centre, centred)
                _write(total, S, centred, shift, add=True)
        return gx, None

    @staticmethod
    def push_forward(ctx: Any, dx: Tensor, _: None) -> tuple[Tensor | None, ...]:
        data, mean, C = ctx.saved_tensors
        wide, count = dx.to(mean.dtype), _observations(data)
        half = _gram(wide, data.to(mean.dtype) - mean) / count
        d_mean, dC = wide.sum(dim=(0, 3)).unsqueeze(-1) / count, half + half.mT
        return d_mean, dC, *constant(C), ctx.by.push_forward(C, dC, count), None, dx.view_as(dx)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int, None], data: Tensor, by: Conditioning) -> tuple[Any, Any]:
        """More matrices are more groups."""
        results = _Moments.call(_as_groups(data, in_dims[0], info.batch_size, 1), by)
        dims = (0, 0, 0, 0, 0, 1)
        return tuple(r.unflatten(dim, (info.batch_size, -1)) for r, dim in zip(results, dims, strict=True)), dims


class _Affine(Function):
    """With a route, the gradient in the data goes by it; ``data`` itself is what derivatives of that gradient go by."""

    generate_vmap_rule = False

    @staticmethod
    def forward(
        route: Tensor | None,
        data: Tensor,
        T: Tensor,
        mean: Tensor,
        scale: Tensor | None,
        offset: Tensor | None,
        layout: Layout,
    ) -> Tensor:
        x, y = layout.empty(data)
        if _in_one_pass(data):
            operators.affine(y, data, T, mean, scale, offset)
            return layout.filled(x, y)
        T, centred = _scaled(T, scale), None
        for piece, image in _pieces(data, y):
            centred = _centred(piece, mean, centred)
            _write(image, T, centred, offset)
        return layout.filled(x, y)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        route, data, T, mean, scale, offset, ctx.layout = inputs
        ctx.given = [tensor is not None for tensor in (route, scale, offset)]
        save(ctx, data, T, mean, scale)

    @staticmethod
    def backward(ctx: Any, gx: Tensor) -> tuple[Tensor | None, ...]:
        data, T, mean, scale = ctx.saved_tensors
        of_route, of_data, *others, _ = ctx.needs_input_grad
        has_route, has_scale, has_offset = ctx.given
        needs_gx = of_route if has_route else of_data
        g = ctx.layout.arrange(gx)

        def cotangents(gx: Tensor | None, *sums: Tensor) -> tuple[Tensor | None, ...]:
            gT, g_mean, g_scale, g_offset = sums or (None,) * 4
            small = gT, g_mean, g_scale if has_scale else None, g_offset if has_offset else None
            return (gx, None, *small, None) if has_route else (None, gx, *small, None)

        with full_precision(data.device):
            if torch.is_grad_enabled():
                wide = g.to(T.dtype)
                sums = _gram(wide, data.to(T.dtype) - mean), wide.sum(dim=(0, 3)).unsqueeze(-1)
                return cotangents((_scaled(T, scale).mT @ wide).to(g.dtype), *passes.of_sums(*sums, T, scale))
            gx = _empty_like(g) if needs_gx else g
            if _in_one_pass(g):
                return cotangents(
                    gx if needs_gx else None,
                    *operators.affine_backward(gx if needs_gx else None, data, g, T, mean, scale),
                )
            rows, centred = _scaled(T, scale).mT, None
            product, g_offset = torch.zeros_like(T), torch.zeros_like(mean)
            for piece, cotangent, image in _pieces(data, g, gx):
                wide = cotangent.to(T.dtype)
                if any(others):
                    centred = _centred(piece, mean, centred)
                    product = product + _gram(wide, centred)
                    g_offset = g_offset + wide.sum(dim=(0, 3)).unsqueeze(-1)
                if needs_gx:
                    _write(image, rows, wide)
            small = passes.of_sums(product, g_offset, T, scale) if any(others) else ()
            return cotangents(gx if needs_gx else None, *small)

    @staticmethod
    def push_forward(
        ctx: Any,
        d_route: Tensor | None,
        dx: Tensor,
        dT: Tensor,
        d_mean: Tensor,
        d_scale: Tensor | None,
        d_offset: Tensor | None,
        layout: None,
    ) -> Tensor:
        data, T, mean, scale = ctx.saved_tensors
        dx = dx if d_route is None else d_route
        centred = data.to(T.dtype) - mean
        moved = _scaled(T, scale) @ (dx.to(T.dtype) - d_mean) + _scaled(dT, scale) @ centred
        if d_scale is not None:
            moved = moved + d_scale * (T @ centred)
        if d_offset is not None:
            moved = moved + d_offset
        return ctx.layout.arrange_back(moved.to(data.dtype))

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> tuple[Tensor, int]:
        *tensors, layout = inputs
        folded = [
            None if tensor is None else _as_groups(tensor, dim, info.batch_size, axis)
            for tensor, dim, axis in zip(tensors, in_dims[:-1], (1, 1, 0, 0, 0, 0), strict=True)
        ]
        return _Affine.call(*folded, layout.widened(info.batch_size)).unflatten(1, (info.batch_size, -1)), 1


def _left_to_torch(data: Tensor) -> bool:
    """Whether to take torch's operators on the whole of the data.

    A compiler fuses them by itself, for shapes that change as well, and would unroll the loop over pieces; an exported
    program, or one of TorchScript, must not need eigengrad.
    """
    return is_replayed() or (is_traced() and not _in_one_pass(data))


def is_replayed() -> bool:
    """Whether a graph is made that is optimised or runs elsewhere."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


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


def _scaled(matrix: Tensor, scale: Tensor | None) -> Tensor:
    return matrix if scale is None else scale * matrix


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
