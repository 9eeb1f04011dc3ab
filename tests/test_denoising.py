"""The denoising layer: what it computes, its gradients, and a projector that stays one."""

import pytest
import torch
import torch.multiprocessing
from torch import Tensor

import eigengrad as eg
from eigengrad.nn.functional.denoising import ACROSS_THE_CUT

SHAPES = [(40, 6), (16, 6, 7), (16, 6, 3, 3)]


def mixed(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    """Correlated channels of different variances, with a mean."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(shape[1], shape[1], dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    data = torch.randn(shape[0], *shape[2:], shape[1], dtype=torch.float64, generator=generator) @ mixing + 3.0
    return data.movedim(-1, 1).to(dtype)


def rows(x: Tensor) -> Tensor:
    return x.movedim(1, -1).reshape(-1, x.shape[1])


def correlation(x: Tensor, eps: float = 1e-4) -> tuple[Tensor, Tensor]:
    """Standardised rows and their correlation matrix, as the paper puts it."""
    standardised = (rows(x) - rows(x).mean(dim=0)) / (rows(x).var(dim=0, correction=0) + eps).sqrt()
    return standardised, standardised.mT @ standardised / len(standardised)


def by_hand(x: Tensor, rank: int) -> Tensor:
    """By the eigenvectors of torch."""
    standardised, R = correlation(x)
    V = torch.linalg.eigh(R).eigenvectors[:, -rank:]
    return standardised @ V @ V.mT


@pytest.mark.parametrize("rank", [1, 3, 6])
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients(shape: tuple[int, ...], rank: int) -> None:
    """With exact gradients, as autograd through torch's eigenvectors; by default, as through the projector."""
    x, G = mixed(*shape).requires_grad_(), torch.randn(shape, dtype=torch.float64)
    expected = by_hand(x, rank)
    for gradient in (eg.Exact(), eg.PowerIteration(), None):
        torch.testing.assert_close(rows(eg.denoise(x, rank=rank, gradient=gradient)), expected)
    reference = torch.autograd.grad(expected, x, rows(G))
    torch.testing.assert_close(torch.autograd.grad(eg.denoise(x, rank=rank, gradient=eg.Exact()), x, G), reference)
    standardised, R = correlation(x)
    reference = torch.autograd.grad(standardised @ eg.projector(R, rank, gradient=ACROSS_THE_CUT), x, rows(G))
    torch.testing.assert_close(torch.autograd.grad(eg.denoise(x, rank=rank), x, G), reference)


@pytest.mark.parametrize("energy", [0.01, 0.6, 0.9, 0.999, 1.0])
def test_energy(energy: float) -> None:
    """The fewest eigenvectors that make up the share; with all of them, the layer only standardises."""
    x = mixed(200, 6)
    L = torch.linalg.eigvalsh(correlation(x)[1]).flip(0)
    rank = int((L.cumsum(0) < energy * L.sum() * (1 - 1e-12)).sum()) + 1
    torch.testing.assert_close(eg.denoise(x, energy=energy), by_hand(x, rank))
    if energy == 1.0:
        torch.testing.assert_close(eg.denoise(x, energy=energy), correlation(x)[0])


def test_energy_differs_among_batches_of_vmap() -> None:
    x = torch.stack([mixed(50, 6), torch.randn(50, 6, dtype=torch.float64)])
    expected = torch.stack([eg.denoise(batch, energy=0.8) for batch in x])
    torch.testing.assert_close(torch.func.vmap(lambda x: eg.denoise(x, energy=0.8))(x), expected)
    assert torch.linalg.matrix_rank(expected[0]) < torch.linalg.matrix_rank(expected[1])


def test_ties_within_what_is_kept() -> None:
    """Uncorrelated signals and silence: eigenvalues tie on either side of the cut, and nothing is lost by it."""
    t = torch.arange(64, dtype=torch.float64) * (2 * torch.pi / 64)
    x = torch.stack([t.sin(), t.cos(), (2 * t).sin(), 0 * t, 0 * t, 0 * t], dim=1).requires_grad_()
    standardised, R = correlation(x.detach())
    assert torch.linalg.eigvalsh(R)[-3:].diff().abs().max() < 1e-12
    y = eg.denoise(x, rank=3)
    torch.testing.assert_close(y, standardised, rtol=0, atol=1e-10)
    gradient = torch.autograd.grad((y**3).sum(), x)[0]
    assert gradient.isfinite().all()


def test_running_statistics_and_evaluation() -> None:
    """What is averaged is the covariance; the projection is that of the average, and a projector."""
    layer, batches = eg.nn.PCADenoising(6, momentum=0.25, rank=2, dtype=torch.float64), [mixed(30, 6, 4), mixed(40, 6)]
    expected = torch.eye(6, dtype=torch.float64)
    for batch in batches:
        layer(batch)
        expected = expected.lerp(rows(batch).T.cov(correction=0), 0.25)
    assert layer.running_covariance is not None
    torch.testing.assert_close(layer.running_covariance, expected)
    P = layer.evaluation_matrix()
    torch.testing.assert_close(P @ P, P)
    torch.testing.assert_close(P, P.mT)
    torch.testing.assert_close(P.trace().item(), 2.0)
    scale = (expected.diagonal() + 1e-4).rsqrt()
    torch.testing.assert_close(P, eg.projector(scale[:, None] * expected * scale, 2))
    assert layer.running_mean is not None
    x = mixed(9, 6, seed=3)
    torch.testing.assert_close(layer.eval()(x), ((x - layer.running_mean) * scale) @ P)
    layer.reset_running_stats()
    torch.testing.assert_close(layer(x), x / 1.0001**0.5)


def test_affine() -> None:
    x, layer = mixed(16, 6, 3, 3), eg.nn.PCADenoising(6, rank=4, dtype=torch.float64)
    torch.nn.init.normal_(layer.weight)
    torch.nn.init.normal_(layer.bias)
    weight, bias = (p.view(6, 1, 1) for p in layer.parameters())
    torch.testing.assert_close(layer(x), weight * eg.denoise(x, rank=4) + bias)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give either rank or energy"),
        ({"rank": 2, "energy": 0.5}, "give either rank or energy"),
        ({"rank": 0}, "rank must lie between 1 and the number of channels, 6, got 0"),
        ({"rank": 7}, "rank must lie between"),
        ({"energy": 0.0}, "energy must lie in"),
        ({"energy": 1.5}, "energy must lie in"),
        ({"rank": 2, "eps": -1e-4}, "eps must not be negative"),
        ({"rank": 2, "solver": "lapack"}, "solver must be one of"),
    ],
)
def test_errors(options: dict[str, object], message: str) -> None:
    for call in (lambda: eg.nn.PCADenoising(6, **options), lambda: eg.denoise(mixed(9, 6), **options)):  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(ValueError, match=r"running_covariance must have shape \(6, 6\)"):
        eg.denoise(mixed(9, 6), None, torch.eye(5), rank=1)


def test_repr() -> None:
    assert "rank=2" in repr(eg.nn.PCADenoising(6, rank=2))
    shown = repr(eg.nn.PCADenoising(6, energy=0.5, gradient=eg.Taylor(), solver="svd", errors="skip"))
    assert all(text in shown for text in ("energy=0.5", "gradient=Taylor(degree=9)", "solver='svd'", "errors='skip'"))


def synchronised(rank: int, path: str, x: Tensor, sizes: list[int]) -> None:
    """One of several processes: its own rows of the batch, and the joined result to compare with."""
    torch.distributed.init_process_group("gloo", f"file://{path}", rank=rank, world_size=len(sizes))
    whole, part = x.clone().requires_grad_(), x.split(sizes)[rank].clone().requires_grad_()
    world = torch.distributed.group.WORLD
    joined, shared = (eg.nn.PCADenoising(6, momentum=None, rank=3, process_group=g) for g in (None, world))
    expected, actual = joined(whole), shared(part)
    torch.testing.assert_close(actual, expected.split(sizes)[rank], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(shared.state_dict(), joined.state_dict(), rtol=1e-5, atol=1e-5)
    (expected**3).sum().backward()
    (actual**3).sum().backward()
    assert whole.grad is not None
    torch.testing.assert_close(part.grad, whole.grad.split(sizes)[rank], rtol=1e-4, atol=1e-4)
    torch.distributed.barrier()  # nobody leaves while another still talks to it
    torch.distributed.destroy_process_group()


def test_two_processes_are_one(tmp_path: object) -> None:
    """An empty batch on one of them."""
    x = mixed(16, 6, 3, 3, dtype=torch.float32)
    torch.multiprocessing.spawn(synchronised, args=(f"{tmp_path}/rendezvous", x, [16, 0]), nprocs=2)


@pytest.mark.parametrize("scale", [1e-15, 1e15, 1e17])
def test_gradients_at_scales_whose_powers_are_no_numbers(scale: float, generator: torch.Generator) -> None:
    x, g = (torch.randn(40, 6, generator=generator) for _ in range(2))

    def gradient(dtype: torch.dtype) -> torch.Tensor:
        leaf = (scale * x).to(dtype).requires_grad_()
        return torch.autograd.grad(eg.denoise(leaf, rank=3), leaf, g.to(dtype))[0].double()

    expected = gradient(torch.float64)
    assert (gradient(torch.float32) - expected).norm() < 1e-5 * expected.norm()  # without the kernel 3.5e-6
