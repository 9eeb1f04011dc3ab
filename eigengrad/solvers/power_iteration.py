"""Power iteration with deflation: the paper's PI baseline, in differentiable steps."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from eigengrad.solvers.base import check_triangle, hermitian

__all__ = ["PowerIteration"]


@dataclass(frozen=True)
class PowerIteration:
    """Power iteration from random starts with deflation, one eigenvector after the other: the paper's PI baseline.

    For each of the n eigenvectors, ``iterations`` products ``v <- M v / norm(M v)``, then the Rayleigh quotient
    ``v^H M v``, then deflation ``M <- M - M v v^H``. Written in differentiable steps, so that
    :class:`eigengrad.Unrolled` can walk them. It converges as ``abs(b/a)^iterations`` and the error of each vector
    enters all later ones: expect wrong results where magnitudes are close, which is what the paper shows.

    Args:
        iterations: products per eigenvector. The default of 19 is the paper's.
        generator: source of the random starts; torch's global one by default.
    """

    differentiable: ClassVar[bool] = True
    iterations: int = 19
    generator: torch.Generator | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise ValueError(f"solvers.PowerIteration: iterations must be at least 1, got {self.iterations}")

    def __call__(self, A: Tensor, UPLO: str = "L") -> tuple[Tensor, Tensor]:
        check_triangle(A, UPLO)
        M = hermitian(A, UPLO)
        n = M.shape[-1]
        if n == 0:
            return M.new_empty(M.shape[:-1], dtype=M.real.dtype), M
        largest = M.detach().abs().amax(dim=(-2, -1), keepdim=True)  # else norms of 1e30 overflow in float32
        scale = torch.where(largest > 0, largest, 1.0)
        M = M / scale
        # No generator is not the same as generator=None to torch.export with symbolic sizes (torch 2.13).
        source: dict[str, Any] = {} if self.generator is None else {"generator": self.generator}
        starts = torch.randn(M.shape, dtype=M.dtype, device=M.device, **source)
        values, vectors = [], []
        for stage in range(n):
            v = _normalise(starts[..., stage : stage + 1])
            for _ in range(self.iterations):
                v = _normalise(M @ v)
            image = M @ v
            values.append((v.mH @ image).real[..., 0])
            vectors.append(v)
            M = M - image @ v.mH
        L, order = (torch.cat(values, dim=-1) * scale[..., 0]).sort(dim=-1)
        V = torch.cat(vectors, dim=-1)
        return L, V.gather(-1, order.unsqueeze(-2).expand(V.shape))


def _normalise(v: Tensor) -> Tensor:
    """``v / norm(v)`` for column vectors ``(*, n, 1)``; a zero vector stays as it is."""
    norm = torch.linalg.vector_norm(v, dim=-2, keepdim=True)
    return v / norm.clamp_min(torch.finfo(norm.dtype).tiny)
