"""Other people's packages with eigengrad's functions inside: gradients where theirs are NaN, wrong, or of one order
only.

Each door is a context, ``with torchmetrics_fid(): ...``, or a function of a model. None of the packages is needed for
the others; run as a script, this shows those that are installed (``pip install torchmetrics POT pyriemann spd_learn``).

    python examples/neighbours.py
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from unittest import mock

import torch
from torch import Tensor, nn

import eigengrad as eg


@contextmanager
def torchmetrics_fid() -> Iterator[None]:
    """``torchmetrics.image.FrechetInceptionDistance`` by :func:`eigengrad.spd.frechet_distance`.

    Theirs takes roots of the eigenvalues of a product that is not symmetric. Where images are fewer than features many
    are zero but for rounding, of which the roots, and their derivatives, make something.
    """

    def distance(mean1: Tensor, cov1: Tensor, mean2: Tensor, cov2: Tensor) -> Tensor:
        return eg.spd.frechet_distance(mean1, cov1, mean2, cov2)

    with mock.patch("torchmetrics.image.fid._compute_fid", distance):
        yield


@contextmanager
def pot_roots() -> Iterator[None]:
    """``ot.gaussian`` on torch tensors by :func:`eigengrad.sqrtm`: complex input, and derivatives of every order."""
    with mock.patch("ot.backend.TorchBackend.sqrtm", lambda backend, A: eg.sqrtm(A)):
        yield


PYRIEMANN = {"sqrtm": eg.sqrtm, "invsqrtm": eg.inv_sqrtm, "logm": eg.logm, "expm": eg.expm, "powm": eg.powm}


@contextmanager
def pyriemann_functions() -> Iterator[None]:
    """Distances, means and tangent spaces of ``pyriemann.geometry`` on torch tensors by our functions of matrices.

    Theirs are built on eigenvectors, whose derivatives are NaN where eigenvalues meet.
    """
    import pyriemann.geometry.mean
    import pyriemann.geometry.tangentspace  # noqa: F401

    modules = [module for name, module in sys.modules.items() if name.startswith("pyriemann.geometry.")]
    patches = [
        mock.patch.object(module, name, function)
        for module in modules
        for name, function in PYRIEMANN.items()
        if hasattr(module, name)
    ]
    for patch in patches:
        patch.start()
    try:
        yield
    finally:
        for patch in patches:
            patch.stop()


class RectifiedLogarithm(nn.Module):
    """ReEig and LogEig of SPDNet: ``log(max(x, threshold))`` of eigenvalues, by one decomposition in place of two.

    Of the result, the upper triangle, off the diagonal times ``sqrt(2)``; or all of it.
    """

    def __init__(self, threshold: float, upper: bool) -> None:
        super().__init__()
        self.threshold, self.upper = threshold, upper

    def forward(self, X: Tensor) -> Tensor:
        L = eg.logm(X, floor=self.threshold).flatten(-2)
        if not self.upper:
            return L
        n = X.shape[-1]
        rows, columns = torch.triu_indices(n, n, device=X.device)
        weights = torch.where(rows == columns, 1.0, torch.tensor(2.0, dtype=X.dtype, device=X.device).sqrt())
        return L.index_select(-1, rows * n + columns) * weights


def spdnet(model: nn.Module) -> nn.Module:
    """A ``spd_learn.models.SPDNet`` whose rectification and logarithm are ours, in place."""
    model.logeig = RectifiedLogarithm(model.reeig._get_threshold(torch.empty(0)), model.logeig.upper)
    model.reeig = nn.Identity()
    return model


def fid_of_few(X: Tensor, Y: Tensor) -> Tensor:
    """The FID of fewer samples than features by a nuclear norm: no root of a zero eigenvalue is differentiated."""
    x, y = ((Z - Z.mean(0)) / (len(Z) - 1) ** 0.5 for Z in (X, Y))
    U, _, Vh = torch.linalg.svd((y @ x.mT).detach(), full_matrices=False)
    rank = min(len(X), len(Y)) - 1
    fidelity = (U[:, :rank] @ Vh[:rank] * (y @ x.mT)).sum()
    return (X.mean(0) - Y.mean(0)).square().sum() + x.square().sum() + y.square().sum() - 2 * fidelity


def torchmetrics_error() -> Tensor:
    """Relative, of the gradient in 20 samples of the FID of 64 features, in single precision."""
    from torchmetrics.image import fid

    X, Y = (torch.randn(n, 64, generator=torch.Generator().manual_seed(n)) for n in (20, 30))
    X.requires_grad_()
    (gradient,) = torch.autograd.grad(fid._compute_fid(X.mean(0), X.mT.cov(), Y.mean(0), Y.mT.cov()), X)
    precise = X.detach().double().requires_grad_()
    (exact,) = torch.autograd.grad(fid_of_few(precise, Y.double()), precise)
    return (gradient - exact).norm() / exact.norm()


def pot_gradient() -> Tensor:
    """In a matrix with equal eigenvalues, of the gradient's norm of POT's Bures distance: a second derivative."""
    import ot.gaussian

    A = torch.eye(4, dtype=torch.float64).requires_grad_()
    distance = ot.gaussian.bures_distance(A, 2 * torch.eye(4, dtype=torch.float64))
    (first,) = torch.autograd.grad(distance, A, create_graph=True)
    return torch.autograd.grad(first.square().sum(), A)[0]


def pyriemann_gradient() -> Tensor:
    """In a matrix with equal eigenvalues, of the log-Euclidean distance."""
    from pyriemann.geometry.distance import distance_logeuclid

    A = torch.eye(4, dtype=torch.float64).requires_grad_()
    return torch.autograd.grad(distance_logeuclid(A, 2 * torch.eye(4, dtype=torch.float64)), A)[0]


DEMONSTRATIONS = {
    "torchmetrics": (torchmetrics_error, torchmetrics_fid),
    "ot": (pot_gradient, pot_roots),
    "pyriemann": (pyriemann_gradient, pyriemann_functions),
}


def outcome(gradient: Callable[[], Tensor]) -> str:
    """Its norm, or what was raised."""
    try:
        return f"norm {float(gradient().norm()):.6g}"
    except RuntimeError as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0][:60]}"


if __name__ == "__main__":
    for package, (gradient, door) in DEMONSTRATIONS.items():
        if find_spec(package) is None:
            print(f"{package}: not installed")
            continue
        alone = outcome(gradient)
        with door():
            print(f"{package}: alone {alone}; with eigengrad {outcome(gradient)}")
