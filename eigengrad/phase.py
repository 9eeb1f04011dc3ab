"""The phase of complex eigenvectors, on which no loss may depend.

An eigenvector ``v`` is as good as ``exp(i phi) v``. A loss whose cotangent ``g`` has a part along ``i v`` depends on
phi, and has no gradient: as torch, the functions of this package say so in the backward pass. torch compares that part
with 0.01, whatever the scale of the loss; here it is compared with the cotangent's size.
"""

import torch
from torch import Tensor

from eigengrad.autograd import has_values

__all__ = ["check_phase"]

SHARE = 0.01
"""Of the cotangent's size: what is less is taken for rounding, as in torch."""


def check_phase(name: str, *vectors: tuple[Tensor, Tensor | None]) -> None:
    """Raise if the cotangents of complex vectors ask for a change of phase, which those of one column share.

    On a CPU only, where looking at values is no waiting, and neither under tracers nor under ``torch.func``.

    Args:
        name: of the function that found the vectors.
        vectors: pairs of vectors ``(*, n, k)`` and their cotangents; of a singular value, those on either side.

    Raises:
        RuntimeError: as of ``torch.linalg.eigh``, with the matrix and the share.
    """
    given = [(V, g) for V, g in vectors if g is not None and V.is_complex()]
    if not given or not all(V.numel() > 0 and has_values(V, g) for V, g in given):
        return
    largest = torch.stack([g.abs().amax((-2, -1)) for _, g in given]).amax(0).clamp_min(_tiny(given[0][1]))
    turn, square = torch.zeros_like(largest).unsqueeze(-1), torch.zeros_like(largest)
    for V, g in given:
        scaled = g / largest[..., None, None]
        turn = turn + (V.conj() * scaled).sum(-2).imag
        square = square + torch.linalg.vector_norm(scaled, dim=(-2, -1)) ** 2
    share = turn.abs().amax(-1) / square.sqrt().clamp_min(_tiny(given[0][1]))
    if bool((share > SHARE).any()):
        index = int((share > SHARE).flatten().nonzero()[0])
        raise RuntimeError(
            f"{name}: the loss depends on the phase of complex vectors, which is arbitrary, and has no gradient: "
            f"in matrix {index} of the batch, {float(share.flatten()[index]):.2g} of the cotangent's size asks for "
            "another. Use abs(V), V * V.conj(), a projector, or fix the phase in the loss"
        )


def _tiny(g: Tensor) -> float:
    return torch.finfo(g.dtype).tiny
