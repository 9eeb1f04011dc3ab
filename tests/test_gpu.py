"""What only a GPU can tell; skipped where there is none.

    python -m pytest -m gpu tests/test_gpu.py

Run so, it writes a summary with the device and the versions to ``results/gpu-tests.json`` (see ``conftest.py``).
"""

import contextlib
import copy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from emulation import LARGE, SIZES, fake_device, needs_compiler
from spectra import hermitian, invariant_loss, relative_error
from test_conformance import CASES, RULES, batch, loss_of
from torch import Tensor, nn

import eigengrad as eg
from benchmarks.cusolver import CuSolver, CuSolverError
from eigengrad import native
from eigengrad.gpu import cusolver, kernels, operators, passes
from eigengrad.native.operators import KINDS
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


@pytest.mark.parametrize("gradient", GRADIENTS, ids=repr)
def test_our_kernels_do_not_wait(gradient: eg.gradients.GradientRule | None) -> None:
    """A training step with the default solver, nothing exempt."""
    network = nn.Sequential(nn.Conv2d(CHANNELS, CHANNELS, 3), LAYERS["whitening"](gradient=gradient), nn.ReLU()).to(
        CUDA
    )
    x = images(torch.float32).to(CUDA)

    def step() -> None:
        network(x).square().mean().backward()

    step()
    torch.cuda.synchronize()
    with without_waiting():
        step()
        step()
    assert not kernels.trouble


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
    """At once where the solver waits; with our kernels, which do not, NaN at first and the error with the next call."""
    layer, waiting = LAYERS["whitening"](device=CUDA), LAYERS["whitening"](device=CUDA, solver="eigh")
    good, bad = images(torch.float32).to(CUDA), images(torch.float32).to(CUDA)
    bad[3, 5] = torch.nan
    for each in (layer, waiting):
        each(good)
    before = [copy.deepcopy(each.state_dict()) for each in (layer, waiting)]
    for _ in range(20):
        with pytest.raises(torch.linalg.LinAlgError, match="of channels 4 to 7 is not finite"):
            waiting(bad)
        with pytest.raises(torch.linalg.LinAlgError, match="of channels 4 to 7 is not finite"):
            assert layer(bad)[:, 4:8].isnan().all()
            torch.cuda.synchronize()
            layer(good)
    for each, kept in zip((layer, waiting), before, strict=True):
        for name in ("running_mean", "running_covariance"):
            torch.testing.assert_close(each.state_dict()[name], kept[name], rtol=0, atol=0)
    for call in (lambda: eg.pool_covariance(bad), lambda: eg.denoise(bad, rank=3)):
        with pytest.raises(torch.linalg.LinAlgError, match="is not finite"):
            call()
            torch.cuda.synchronize()
            call()
    with contextlib.suppress(torch.linalg.LinAlgError):  # of the last call's answer
        torch.cuda.synchronize()
        layer(good)


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
@pytest.mark.parametrize("name", ["syevj", "in_one_call"])
def test_cusolver_of_the_benchmark(name: str, dtype: torch.dtype) -> None:
    torch.linalg.eigh(torch.eye(2, device=CUDA))
    A = separated(7, 20, dtype).to(CUDA)
    try:
        L, V = getattr(CuSolver(), name)(A)()
    except CuSolverError as error:
        pytest.skip(str(error))
    assert relative_error((V * L.unsqueeze(-2)) @ V.mT, A) < (1e-5 if dtype == torch.float32 else 1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64, torch.complex128])
@pytest.mark.parametrize("n", [33, 65, 100])
def test_cusolver_where_torch_takes_matrices_one_by_one(
    n: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a torch before 2.12; the lower triangle, and one bad matrix alone."""
    monkeypatch.setattr(cusolver, "torch_hands_over_batches", lambda: False)
    A = separated(n, 5, torch.float64 if dtype.to_real() == dtype else torch.complex128).to(CUDA, dtype)
    bad = A.clone()
    bad[2, 7, 3] = torch.nan
    found = cusolver.eigh(bad.tril(), False)
    if found is None:
        pytest.skip(kernels.trouble[-1])
    L, V = found
    assert L.isnan().any(dim=-1).tolist() == [False, False, True, False, False]
    others = [0, 1, 3, 4]
    recomposed = (V * L.unsqueeze(-2).to(dtype)) @ V.mH
    assert relative_error(recomposed[others], A[others]) < 1000 * torch.finfo(dtype).eps
    assert [x.stride() for x in found] == [x.stride() for x in operators.eigh(A, False, False, False)]


# The source of the kernels, computed by a GPU and by a CPU (``emulation.py``).


def on_both(
    call: Any, arguments: list[Any], monkeypatch: pytest.MonkeyPatch, cache: Path
) -> tuple[list[Tensor], list[Tensor]]:
    """The results of an implementation for CUDA, on both."""
    moved = [argument.to(CUDA) if isinstance(argument, Tensor) else argument for argument in arguments]
    found = call(*moved)
    with monkeypatch.context() as patched, fake_device(patched, cache):
        expected = call(*arguments)
    pairs = [(found, expected)] if isinstance(found, Tensor) else list(zip(found, expected, strict=True))
    return [a.cpu().nan_to_num(7.0) for a, _ in pairs], [b.nan_to_num(7.0) for _, b in pairs]


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [*SIZES, *LARGE])
def test_bits(n: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Decomposition, functions, gradients: those of the emulation, and with them the native kernel's up to 8 rows."""
    count = 40 if n <= 8 else 3
    X = torch.randn(count, n, n, dtype=torch.float64, generator=torch.Generator().manual_seed(n))
    A = (X @ X.mT / n + 0.1 * torch.eye(n, dtype=torch.float64)).to(dtype)
    A[1] = torch.eye(n)
    bad = A.clone()
    bad[2, -1, 0] = torch.nan
    L, V = native.operators.eigh(A, True, False, False)
    cases: list[tuple[Any, list[Any]]] = [
        (operators.eigh, [bad, True, False, False]),
        (operators.root, [bad, True, 1e-3, True, False]),
        (operators.function, [A, KINDS["power"], 0.3, True, False]),
        (operators.pull_back, [V, X.to(dtype), L.rsqrt(), None, KINDS["inverse_square_root"]]),
        (operators.pull_back, [V, X.to(dtype), L, L, KINDS["rule"], 1e-4]),
        (operators.pull_back, [V, X.to(dtype).mT, L, None, KINDS["rule"], 0.0, 19, 18]),
        (operators.pull_back, [V, X.to(dtype), L, None, KINDS["logarithm"]]),
    ]
    for call, arguments in cases:
        found, expected = on_both(call, arguments, monkeypatch, tmp_path)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True)), (call.__name__, arguments[3:])
    assert not kernels.trouble


@needs_compiler
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("d", [4, 17, 64])
def test_bits_of_passes(
    d: int, dtype: torch.dtype, channels_last: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    data = torch.randn(3, 2, d, 900, generator=torch.Generator().manual_seed(d)).to(dtype)
    if channels_last:
        data = data.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    T, centre = torch.randn(2, d, d), torch.randn(2, d, 1)

    def forward(data: Tensor, T: Tensor, centre: Tensor) -> tuple[Tensor, ...]:
        y = torch.empty_like(data)
        passes.affine(y, data, T, centre, centre, None)
        gx = torch.empty_like(data)
        sums = passes.affine_backward(gx, data, data, T, centre, centre)
        found = passes.moments(data, -1.0, 1e-4, 0.1)
        passes.moments_backward(gx, data, *found[:2], centre, None, T, -1.0, 0.1)
        running = torch.zeros(2 * d, device=data.device), torch.zeros(2 * d, d, device=data.device)
        passes.update(*running, None, None, found[0], found[2], found[4], 0, 0.25, False)
        return *found, y.float(), *sums, gx.float(), *running

    found, expected = on_both(forward, [data, T, centre], monkeypatch, tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_a_captured_step() -> None:
    """A CUDA graph of a layer's training step: the eager results, in every replay; NaN raises nothing there."""
    layer = LAYERS["whitening"](device=CUDA)
    x = images(torch.float32).to(CUDA).requires_grad_()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            layer(x).square().sum().backward()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    x.grad = None
    with torch.cuda.graph(graph):
        y = layer(x)
        (y.tanh() * x.detach()).sum().backward()
    graph.replay()
    expected = eg.whiten(x.detach(), group_size=4, eps=1e-2)
    assert relative_error(y, expected) < 1e-5
    with torch.no_grad():
        x[3, 5] = torch.nan
    graph.replay()
    torch.cuda.synchronize()
    assert y[:, 4:8].isnan().all()
    assert y[:, :4].isfinite().all()


def test_full_precision_whatever_torch_may() -> None:
    """Up to 64 rows the products are our own."""
    A = separated(33, 20, torch.float64)
    try:
        torch.set_float32_matmul_precision("high")
        W = eg.inv_sqrtm(A.float().to(CUDA)).double().cpu()
    finally:
        torch.set_float32_matmul_precision("highest")
    assert (W @ A @ W - torch.eye(33, dtype=torch.float64)).abs().max() < 1e-3


@pytest.mark.parametrize("tool", ["memcheck", "racecheck", "synccheck"])
def test_compute_sanitizer(tool: str) -> None:
    if shutil.which("compute-sanitizer") is None:
        pytest.skip("compute-sanitizer is not installed")
    program = """
import torch, eigengrad as eg
for n in (3, 8, 20, 64):
    A = torch.eye(n, device="cuda").expand(5, n, n) + torch.randn(5, n, n, device="cuda") / n
    A = (A @ A.mT).requires_grad_()
    eg.inv_sqrtm(A).sum().backward()
layer = eg.nn.ZCAWhitening(10, group_size=4, device="cuda")
layer(torch.randn(8, 10, 30, 30, device="cuda", requires_grad=True)).square().sum().backward()
torch.cuda.synchronize()
"""
    command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "3", sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]
