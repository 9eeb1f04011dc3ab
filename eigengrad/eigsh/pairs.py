"""Derivatives of some eigenpairs, by the equations that define them.

For ``A x_j = l_j B x_j`` with ``X^H B X = I``, and the cotangents ``gL`` and ``gX`` of the pairs that were found,

    gA = herm(U X^H),    U = X (diag(gL) + K o (X^H gX)) + W,
    gB = -herm(U diag(L) X^H + X diag(X^H gX) X^H / 2),

with the matrix K of the rule between the pairs that were found, and toward all others, which were not, with

    (A - l_j B) w_j = -(I - B X X^H) gX_j,    X^H B W = 0.

Of A nothing is needed but products: ``Re <gA, dA> = Re <U, dA X>``. W solves a bordered system, whose derivative is
another such system; so there are derivatives of every order, each at the price of its solves.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_legacy_batchedtensor, unwrap_if_dead

from eigengrad.autograd import Function, along, save
from eigengrad.eigsh.linear_solves import minres
from eigengrad.eigsh.operators import Operator
from eigengrad.gradients import GradientRule
from eigengrad.phase import check_phase

__all__ = ["Setting", "pairs"]


@dataclass(frozen=True)
class Setting:
    """What the derivatives of pairs need to know beside tensors."""

    A: Operator
    B: Operator | None
    rule: GradientRule
    preconditioner: Any
    max_iterations: int
    a: float
    b: float
    """Powers of two near the norms of A and B, by which equations are divided."""
    scale: float
    """The largest magnitude of an eigenvalue."""


def pairs(setting: Setting, L: Tensor, X: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs that were found, ``L (p,)`` and ``X (n, p)``, as differentiable functions of what A and B are made of."""
    return _Pairs.call(setting, L, X, *_tensors(setting))


def _tensors(setting: Setting) -> tuple[Tensor, ...]:
    return setting.A.params + (() if setting.B is None else setting.B.params)


def _kernel(setting: Setting, L: Tensor) -> Tensor:
    """K between the pairs that were found. Rules measure gaps by the largest magnitude, which is that of all pairs: one
    more value stands for it, a little apart from the largest found, whose gap is to be no pole."""
    return setting.rule.kernel(torch.cat([L, L.new_full((1,), setting.scale * (1 + 2**-10))]))[:-1, :-1]


def _by(B: Operator | None, X: Tensor, params: tuple[Tensor, ...]) -> Tensor:
    return X if B is None else B.product(X, *params)


def _split(setting: Setting, tensors: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    of_A = len(setting.A.params)
    return tensors[:of_A], tensors[of_A:]


def _changes(
    setting: Setting, W: Tensor, tensors: tuple[Tensor, ...], tangents: tuple[Tensor | None, ...]
) -> tuple[Tensor, Tensor]:
    """``dA W`` and ``dB W``."""
    full = tuple(torch.zeros_like(x) if dx is None else dx for x, dx in zip(tensors, tangents, strict=True))
    changes = []
    for operator, at, d in zip((setting.A, setting.B), *(_split(setting, x) for x in (tensors, full)), strict=True):
        changes.append(torch.zeros_like(W) if operator is None or not at else along(_product(operator, W), at, d))
    return changes[0], changes[1]


def _product(operator: Operator, W: Tensor) -> Callable[..., Tensor]:
    return lambda *params: operator.product(W, *params)


Terms = list[tuple[Tensor, Tensor]]


def _cotangents(
    setting: Setting, tensors: tuple[Tensor, ...], needed: tuple[bool, ...], of_A: Terms, of_B: Terms
) -> tuple[Tensor | None, ...]:
    """Of ``sum Re <U, A X> + sum Re <U, B X>`` over the terms ``(U, X)``, in the tensors that A and B are made of."""

    def total(*tensors: Tensor) -> Tensor:
        in_A, in_B = _split(setting, tensors)
        value: Any = sum(setting.A.pairing(U, X, *in_A) for U, X in of_A)
        if setting.B is not None and in_B:
            value = value + sum(setting.B.pairing(U, X, *in_B) for U, X in of_B)
        return value

    if torch._C._are_functorch_transforms_active():
        value, pull_back = torch.func.vjp(total, *map(unwrap_if_dead, tensors))  # type: ignore[misc]
        return tuple(pull_back(torch.ones_like(value)))
    graph = torch.is_grad_enabled()
    with torch.enable_grad():
        # Aliases: U and X depend on the tensors, too, and only what A and B are made of here is meant.
        at = tuple(_alias(tensor, want) for tensor, want in zip(tensors, needed, strict=True))
        wanted = [tensor for tensor in at if tensor.requires_grad]
        if not wanted:
            return (None,) * len(tensors)
        found = iter(torch.autograd.grad(total(*at), wanted, create_graph=graph, allow_unused=True))
    return tuple(next(found) if tensor.requires_grad else None for tensor in at)


def _alias(tensor: Tensor, needed: bool) -> Tensor:
    """Another tensor for the same numbers, that wants a gradient where one is needed: the saved one does not, when
    ``torch.func.vjp``, of which it is a relic, is over."""
    alias = tensor.view_as(tensor)
    return alias.detach().requires_grad_() if needed and not alias.requires_grad else alias


class _Pairs(Function):
    """``A, B -> L, X``, of which the values are given."""

    @staticmethod
    def forward(setting: Setting, L: Tensor, X: Tensor, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        return L.clone(), X.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.setting, _, _, *tensors = inputs
        ctx.set_materialize_grads(False)
        save(ctx, *output, *tensors)

    @staticmethod
    def backward(ctx: Any, gL: Tensor | None, gX: Tensor | None) -> tuple[Any, ...]:
        setting: Setting = ctx.setting
        L, X, *tensors = ctx.saved_tensors
        if gL is None and gX is None:
            return (None,) * (3 + len(tensors))
        U = torch.zeros_like(X) if gL is None else X * gL
        T = -U * L
        if gX is not None:
            check_phase("eigsh", (X, gX))
            M = X.mH @ gX
            V = X @ (_kernel(setting, L) * M) + _Solve.call(setting, L, X, gX, *tensors)
            U, T = U + V, T - V * L - X * M.diagonal().real / 2
        return (None, None, None, *_cotangents(setting, tuple(tensors), ctx.needs_input_grad[3:], [(U, X)], [(T, X)]))

    @staticmethod
    def push_forward(ctx: Any, *tangents: Tensor | None) -> tuple[Tensor, Tensor]:
        setting: Setting = ctx.setting
        L, X, *tensors = ctx.saved_tensors
        of_A, of_B = _changes(setting, X, tuple(tensors), tangents[3:])
        P = of_A - of_B * L
        M = X.mH @ P
        V = X @ (_kernel(setting, L) * M) + _Solve.call(setting, L, X, P, *tensors)
        return M.diagonal().real.clone(), V - X * ((X.conj() * of_B).sum(0).real / 2)


class _Solve(Function):
    """``l, X, R, A, B -> W``: the equations above, of any right sides R ``(n, q)`` with their shifts l ``(q,)``."""

    generate_vmap_rule = False

    @classmethod
    def vmap(cls, info: Any, in_dims: tuple[int | None, ...], setting: Setting, *tensors: Tensor) -> tuple[Tensor, int]:
        """Right sides alone as so many columns; otherwise one system after the other."""
        size, dims = info.batch_size, in_dims[1:]
        shifts, X, R, *rest = tensors
        if all(dim is None for i, dim in enumerate(dims) if i != 2):
            columns = R.movedim(dims[2] or 0, 1)
            W = cls.call(setting, shifts.repeat(size), X, columns.flatten(1), *rest)
            return W.unflatten(1, (size, -1)), 1
        each = [
            cls.call(setting, *(x if dim is None else x.select(dim, i) for x, dim in zip(tensors, dims, strict=True)))
            for i in range(size)
        ]
        return torch.stack(each), 0

    @staticmethod
    def forward(setting: Setting, shifts: Tensor, X: Tensor, R: Tensor, *tensors: Tensor) -> Tensor:
        if is_legacy_batchedtensor(R):
            raise ValueError(
                "eigsh solves its gradient's equations by looking at values, which is_grads_batched=True and "
                "vectorize=True hide: use torch.func.jacrev, jacfwd or hessian"
            )
        of_A, of_B = _split(setting, tensors)
        A, B = setting.A.fast(*of_A), (lambda W: W) if setting.B is None else setting.B.fast(*of_B)
        a, b = setting.a, setting.b
        BX = B(X)
        scaled_shifts = shifts * (b / a)

        def into_range(W: Tensor) -> Tensor:
            return W - BX @ (X.mH @ W)

        def within(W: Tensor) -> Tensor:
            return W - X @ (BX.mH @ W)

        def product(W: Tensor) -> Tensor:
            W = within(W)
            return into_range(A(W) / a - B(W) * (scaled_shifts / b))

        def preconditioner(W: Tensor) -> Tensor:
            return within(setting.preconditioner(into_range(W)))

        size = R.abs().amax(0) if R.numel() else shifts.new_ones(R.shape[1])
        size = torch.where(size > 0, size, 1.0)  # of cotangents, whose squares may be no numbers
        right = -into_range(into_range(R / size))
        W, share = minres(
            product,
            right,
            setting.scale * (b / a),
            torch.linalg.vector_norm(R / size, dim=0),
            preconditioner=None if setting.preconditioner is None else preconditioner,
            max_iterations=setting.max_iterations,
        )
        if not bool((share <= 1e3).all()):
            raise torch.linalg.LinAlgError(
                f"eigsh: the linear equations of the gradient were not solved in {setting.max_iterations} iterations, "
                f"for {int((share > 1e3).sum())} of {X.shape[1]} pairs: the gap behind the last pair is narrow. Take a "
                "k with a wider one (see analysis.inspect), give a preconditioner, or raise max_iterations"
            )
        return within(W) / a * size

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.setting, shifts, X, R, *tensors = inputs
        save(ctx, shifts, X, R, output, *tensors)

    @staticmethod
    def backward(ctx: Any, gW: Tensor) -> tuple[Any, ...]:
        # The bordered system [A - l B, B X; X^H B, 0] [w; m] = [-r; 0] is its own adjoint, with m = -X^H r.
        setting: Setting = ctx.setting
        shifts, X, R, W, *tensors = ctx.saved_tensors
        in_B = _split(setting, tuple(tensors))[1]
        Z = _Solve.call(setting, shifts, X, gW, *tensors)
        m, nu = -(X.mH @ R), X.mH @ gW
        BZ, BW = _by(setting.B, Z, in_B), _by(setting.B, W, in_B)
        g_shifts = -(BZ.conj() * W).sum(0).real
        gX = BZ @ m.mH - BW @ nu.mH
        of_B = [(-Z * shifts, W), (Z @ m.mH, X), (-X @ nu, W)]
        return (None, g_shifts, gX, Z, *_cotangents(setting, tuple(tensors), ctx.needs_input_grad[4:], [(Z, W)], of_B))

    @staticmethod
    def push_forward(ctx: Any, _: None, *tangents: Tensor) -> Tensor:
        setting: Setting = ctx.setting
        shifts, X, R, W, *tensors = ctx.saved_tensors
        d_shifts, dX, dR, *d_tensors = tangents
        in_B = _split(setting, tuple(tensors))[1]
        BW, m = _by(setting.B, W, in_B), -(X.mH @ R)
        of_A, of_B = _changes(setting, W, tuple(tensors), tuple(d_tensors))
        B_of_X = _changes(setting, X, tuple(tensors), tuple(d_tensors))[1]
        # (A - l B) dW + B X dm = -dR - (dA - dl B - l dB) W - (dB X + B dX) m, and X^H B dW = -(dX^H B + X^H dB) W.
        change = dR + of_A - BW * d_shifts - of_B * shifts + (B_of_X + _by(setting.B, dX, in_B)) @ m
        nu = dX.mH @ BW + X.mH @ of_B
        return _Solve.call(setting, shifts, X, change, *tensors) - X @ nu
