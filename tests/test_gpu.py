"""What only a GPU can tell; skipped where there is none.

    python -m pytest -m gpu tests/test_gpu.py

Run so, it writes a summary with the device and the versions to ``results/gpu-tests.json`` (see ``conftest.py``).
"""

import contextlib
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from spectra import hermitian, invariant_loss, relative_error
from test_conformance import CASES, RULES, batch, loss_of
from torch import Tensor, nn

import eigengrad as eg
from benchmarks.cusolver import CuSolver, CuSolverError
from eigengrad.testing import spectrum

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU that torch can use"),
]

CUDA = torch.device("cuda")
CHANNELS = 10
GRADIENTS = [None, *RULES]
LAYERS = {
    "whitening": lambda **options: eg.nn.ZCAWhitening(CHANNELS, group_size=4, eps=1e-2, **options),
    "denoising": lambda **options: eg.nn.PCADenoising(CHANNELS, rank=4, eps=1e-2, **options),
}
OF_VECTORS = ("eigh", "topk_eigh", "svd")
"""Functions whose results are not defined at a tie, so that two devices may differ there."""


def separated(n: int, matrices: int, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(n)
    scales = torch.logspace(-1, 1, matrices).double().unsqueeze(-1)
    return hermitian(spectrum("separated", n) * scales, dtype, generator)


def images(dtype: torch.dtype = torch.float64) -> Tensor:
    x = torch.randn(16, CHANNELS, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mixing = torch.randn(CHANNELS, CHANNELS, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return (torch.einsum("cd,ndhw->nchw", mixing, x) + 1.0).to(dtype)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.complex128, 1e-9), (torch.float32, 2e-3)]
)
@pytest.mark.parametrize("n", [1, 2, 3, 8, 32, 33, 64])
@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_eigh(rule: eg.gradients.GradientRule, n: int, dtype: torch.dtype, tolerance: float) -> None:
    """Values and gradients against the CPU's in double precision, on both sides of torch's own change of routine."""
    wide = dtype.to_complex() if dtype.is_complex else torch.float64
    expected_A = separated(n, 5, wide).requires_grad_()
    A = expected_A.detach().to(CUDA, dtype).requires_grad_()
    weigh = invariant_loss(n, wide, torch.Generator().manual_seed(1))
    results = []
    for matrices in (expected_A, A):
        L, V = eg.eigh(matrices, gradient=rule)
        results.append((L, torch.autograd.grad(weigh(L.cpu().double(), V.cpu().to(wide)), matrices)[0]))
    assert relative_error(results[1][0].cpu(), results[0][0]) < tolerance
    assert relative_error(results[1][1].cpu(), results[0][1]) < tolerance


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize(("name", "call"), CASES)
def test_functions(name: str, call: Any, dtype: torch.dtype) -> None:
    """Every public function, at ties too where it is defined there, with its gradient."""
    A = batch(dtype)[:1] if name in OF_VECTORS else batch(dtype)
    loss = loss_of(call)
    for function in (loss, torch.func.grad(loss)):
        assert relative_error(function(A.to(CUDA)).cpu(), function(A)) < 1e-6
    tangent = torch.func.jvp(loss, (A.to(CUDA),), (A.to(CUDA),))[1]
    assert relative_error(tangent.cpu(), torch.func.jvp(loss, (A,), (A,))[1]) < 1e-6


@pytest.mark.parametrize("solver", ["eigh", "svd", "qr", eg.solvers.PowerIteration(400)], ids=repr)
def test_solvers(solver: str | eg.solvers.Solver) -> None:
    A = separated(5, 9, torch.float64)
    L, V = eg.eigh(A.to(CUDA), solver=solver)
    assert relative_error(((V * L.unsqueeze(-2)) @ V.mH).cpu(), A) < 1e-6


def train(layer: nn.Module, x: Tensor) -> list[Tensor]:
    """Two steps and an evaluation: outputs, gradients, buffers; the layer's own device and dtype."""
    found = []
    for _ in range(2):
        x = x.detach().requires_grad_()
        y = layer.train()(x)
        weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype, device=y.device).view(y.shape)
        found += [y, *torch.autograd.grad((weights * y.tanh()).sum(), [x, *layer.parameters()])]
    return [*found, layer.eval()(x), *layer.buffers()]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 2e-3)])
@pytest.mark.parametrize("errors", ["raise", "skip"])
@pytest.mark.parametrize("gradient", GRADIENTS, ids=repr)
@pytest.mark.parametrize("name", LAYERS)
def test_layers(
    name: str,
    gradient: eg.gradients.GradientRule | None,
    errors: str,
    dtype: torch.dtype,
    tolerance: float,
    memory_format: torch.memory_format,
) -> None:
    layer = LAYERS[name](gradient=gradient, errors=errors, dtype=torch.float64)
    on_gpu = copy.deepcopy(layer).to(CUDA, dtype)
    x = images().to(CUDA, dtype).to(memory_format=memory_format)
    assert on_gpu(x).is_contiguous(memory_format=memory_format)
    layer(images())
    for actual, expected in zip(train(on_gpu, x), train(layer, images()), strict=True):
        assert actual.device.type == "cuda"
        assert relative_error(actual.cpu(), expected) < tolerance


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", LAYERS)
def test_half_precision(name: str, half: torch.dtype) -> None:
    """Under autocast, and as the dtype of the data; moments and matrices stay in float32."""
    layer = LAYERS[name](device=CUDA)
    x = images(torch.float32).to(CUDA)
    expected = copy.deepcopy(layer)(x)
    with torch.autocast("cuda", dtype=half):
        assert relative_error(copy.deepcopy(layer)(x), expected) < 1e-4
    y = layer(x.to(half).requires_grad_())
    y.sum().backward()
    assert y.dtype == half
    assert relative_error(y, expected) < (1e-2 if half == torch.float16 else 5e-2)


def test_pooling() -> None:
    for errors in ("raise", "skip"):
        results = [eg.nn.CovariancePooling(errors=errors)(x).cpu() for x in (images(), images().to(CUDA))]
        assert relative_error(results[1], results[0]) < 1e-9


@dataclass(frozen=True)
class Exempt:
    """A solver that may wait: torch's decompositions look at their error codes."""

    differentiable: ClassVar[bool] = False
    name: str = "eigh"

    def __call__(self, A: Tensor, UPLO: str = "L") -> tuple[Tensor, Tensor]:
        before = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("default")
        try:
            return eg.solvers.resolve(self.name)(A, UPLO)
        finally:
            torch.cuda.set_sync_debug_mode(before)


@contextlib.contextmanager
def without_waiting() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_waiting_is_seen() -> None:
    x = torch.ones(3, device=CUDA)
    with without_waiting(), pytest.raises(RuntimeError, match="synchronizing"):
        x.sum().item()


@pytest.mark.parametrize("errors", ["raise", "skip"])
@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("gradient", [*GRADIENTS, eg.Unrolled()], ids=repr)
@pytest.mark.parametrize("name", [*LAYERS, "pooling"])
def test_a_training_step_does_not_wait(name: str, gradient: Any, momentum: float | None, errors: str) -> None:
    """Convolution, layer, loss, backward and optimiser, decompositions exempt; the first step may load and allocate."""
    solver = eg.solvers.PowerIteration(3) if gradient == eg.Unrolled() else Exempt()
    if name == "pooling":
        layer: nn.Module = eg.nn.CovariancePooling(errors=errors, solver=Exempt())
    else:
        layer = LAYERS[name](gradient=gradient, momentum=momentum, errors=errors, solver=solver)
    network = nn.Sequential(nn.Conv2d(CHANNELS, CHANNELS, 3), layer, nn.ReLU()).to(CUDA)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    x = images(torch.float32).to(CUDA)

    def step() -> None:
        optimizer.zero_grad()
        network(x).square().mean().backward()
        optimizer.step()

    step()
    torch.cuda.synchronize()
    with without_waiting():
        step()
        step()
        network.eval()(x)


def test_nan_raises_and_changes_nothing() -> None:
    """The answer is read after the decomposition has waited, and has arrived by then."""
    layer = LAYERS["whitening"](device=CUDA)
    layer(images(torch.float32).to(CUDA))
    before = copy.deepcopy(layer.state_dict())
    bad = images(torch.float32)
    bad[3, 5] = torch.nan
    for _ in range(20):
        with pytest.raises(torch.linalg.LinAlgError, match="of channels 4 to 7 is not finite"):
            layer(bad.to(CUDA))
    torch.testing.assert_close(layer.state_dict(), before, rtol=0, atol=0)
    with pytest.raises(torch.linalg.LinAlgError, match="of sample 3 is not finite"):
        eg.pool_covariance(bad.to(CUDA))
    with pytest.raises(torch.linalg.LinAlgError, match="is not finite"):
        eg.denoise(bad.to(CUDA), rank=3)


def test_nan_with_a_solver_that_does_not_wait() -> None:
    """An error, if the answer happened to arrive, else NaN; never a number."""
    bad = images(torch.float32).to(CUDA)
    bad[3, 5] = torch.nan
    try:
        y = eg.whiten(bad, group_size=4, solver="power_iteration", gradient=eg.Unrolled())
    except torch.linalg.LinAlgError:
        return
    assert y[:, 4:8].isnan().all()
    assert y[:, :4].isfinite().all()


def test_skip_leaves_the_bad_group_alone() -> None:
    layer = LAYERS["whitening"](device=CUDA, errors="skip")
    bad = images(torch.float32).to(CUDA)
    bad[3, 5] = torch.nan
    before = copy.deepcopy(layer.state_dict())
    y = layer(bad)
    good = [0, 1, 2, 3, 8, 9]
    assert y[:, good].isfinite().all()
    torch.testing.assert_close(y[0, 4:8], bad[0, 4:8])
    for name in ("running_mean", "running_covariance"):
        torch.testing.assert_close(layer.get_buffer(name)[4:8], before[name][4:8], rtol=0, atol=0)


@pytest.mark.parametrize("n", [3, 16, 40])
def test_nan_in_one_matrix(n: int) -> None:
    """It raises, or spoils that matrix alone."""
    A = separated(n, 50, torch.float32).to(CUDA)
    A[20, 0, 0] = torch.nan
    try:
        L, V = eg.eigh(A)
    except torch.linalg.LinAlgError:
        return
    others = torch.arange(50, device=CUDA) != 20
    residual = A @ V - V * L.unsqueeze(-2)
    assert residual[others].abs().max() < 1e-4 * A[others].abs().max()


@pytest.mark.parametrize(("n", "matrices"), [(3, 70_000), (8, 70_000), (3, 200_000), (33, 1_000)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_large_batches(dtype: torch.dtype, n: int, matrices: int) -> None:
    """Above 65,536 matrices, where cuSOLVER's XsyevBatched fails; with a gradient."""
    X = torch.randn(matrices, n, n, dtype=dtype, device=CUDA)
    A = ((X + X.mH) / 2).requires_grad_()
    L, V = eg.eigh(A)
    residual = torch.linalg.matrix_norm(A.detach() @ V.detach() - V.detach() * L.detach().unsqueeze(-2))
    assert (residual <= 1e-5 * n * torch.linalg.matrix_norm(A.detach())).all()
    assert L.shape == (matrices, n)
    L.square().sum().backward()
    torch.testing.assert_close(A.grad, 2 * A.detach(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compile(backend: str) -> None:
    torch._dynamo.reset()
    A = separated(4, 6, torch.float64).to(CUDA).requires_grad_()
    for call in (eg.inv_sqrtm, lambda A: eg.projector(A, 2)):
        loss = loss_of(call)
        compiled = torch.compile(loss, fullgraph=True, backend=backend)
        gradients = [torch.autograd.grad(function(A), A)[0] for function in (compiled, loss)]
        assert relative_error(*gradients) < 1e-9
    layer = LAYERS["whitening"](device=CUDA, dtype=torch.float64)
    twin = copy.deepcopy(layer)
    x = images().to(CUDA)
    assert relative_error(torch.compile(twin, fullgraph=True, backend=backend)(x), layer(x)) < 1e-9
    torch.testing.assert_close(twin.state_dict(), layer.state_dict())


def test_vmap() -> None:
    A = separated(4, 6, torch.float64).to(CUDA)
    assert relative_error(torch.func.vmap(eg.inv_sqrtm)(A), eg.inv_sqrtm(A)) < 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["syevj", "xsyev"])
def test_cusolver_of_the_benchmark(name: str, dtype: torch.dtype) -> None:
    torch.linalg.eigh(torch.eye(2, device=CUDA))
    A = separated(7, 20, dtype).to(CUDA)
    try:
        L, V = getattr(CuSolver(), name)(A)()
    except CuSolverError as error:
        pytest.skip(str(error))
    assert relative_error((V * L.unsqueeze(-2)) @ V.mT, A) < (1e-5 if dtype == torch.float32 else 1e-12)
