"""Integer powers of Hermitian matrices: products, and no decomposition."""

import torch
from torch import Tensor

from eigengrad.arguments import Errors, check_square
from eigengrad.autograd import has_values
from eigengrad.eigh import mirrored
from eigengrad.native.reference import check_finite

__all__ = ["integer_power"]


def integer_power(A: Tensor, p: int, errors: Errors) -> Tensor:
    """``A^p``, with every derivative; one policy for matrices that are not finite or, for a negative p, singular.

    Raises:
        torch.linalg.LinAlgError: with ``errors="raise"``; on a CPU for the first that is not finite, and for the first
            that is singular.
    """
    check_square(A)
    if errors == "raise":
        check_finite(A.tril())
        M = mirrored(A, "L")
        return torch.linalg.matrix_power(M if p >= 0 else _inverse(M, p), abs(p))
    M = mirrored(A, "L")
    good = M.detach().isfinite().all(-1).all(-1)[..., None, None]
    M = torch.where(good, M, torch.eye(M.shape[-1], dtype=M.dtype, device=M.device))
    if p < 0:
        M, info = torch.linalg.inv_ex(M)
        good = good & (info == 0)[..., None, None]
    return torch.where(good, torch.linalg.matrix_power(M, abs(p)), torch.nan)


def _inverse(M: Tensor, p: int) -> Tensor:
    if not has_values(M):
        return torch.linalg.inv(M)  # whose error is torch's
    inverse, info = torch.linalg.inv_ex(M)
    if bool((info != 0).any()):
        raise torch.linalg.LinAlgError(
            f"powm: matrix {int(info.flatten().nonzero()[0])} of the batch is singular, and has no power {p}; give "
            "rtol= or floor=, with below='drop' for the pseudo-inverse, or errors='nan'"
        )
    return inverse
