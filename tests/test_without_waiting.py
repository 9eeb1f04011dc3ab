"""A training step with the package's layers never makes the host wait for a device, decompositions exempt."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from accelerator import DEVICE, Exempt, HostWaitsError, Watch
from test_conformance import CASES, RULES, loss_of
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

import eigengrad as eg
from eigengrad import native
from eigengrad.native import passes, reference
from eigengrad.nn import kept
from eigengrad.nn.functional import finite_check

CHANNELS = 10
GRADIENTS = [None, *RULES]


class Arriving:
    """Takes the place of ``finite_check._Answer``: page-locked memory that is on its way, or has arrived."""

    arrives = True
    read_so_far: list[Tensor]

    def __init__(self, tensor: Tensor) -> None:
        self._here = tensor.clone()

    def read(self) -> Tensor | None:
        if not self.arrives:
            return None
        self.read_so_far.append(self._here)
        return self._here


class WithoutKernel(Watch):
    """Sees what the package's operators are made of where the kernel does not implement them."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.namespace != "eigengrad":
            return super().__torch_dispatch__(function, types, args, kwargs)
        with self:
            where = reference if hasattr(reference, function._opname) else passes
            return getattr(where, function._opname)(*args, **(kwargs or {}))


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    """On a CPU, what happens on CUDA: no compiled kernel, and answers that travel."""
    watch = WithoutKernel()
    raise_if_bad = finite_check.FiniteCheck.raise_if_bad

    def judge_on_the_host(check: finite_check.FiniteCheck, finite: Tensor, matrices: int) -> None:
        assert any(finite is answer for answer in Arriving.read_so_far), "only what has arrived may be looked at"
        with watch.pause():
            raise_if_bad(check, finite, matrices)

    monkeypatch.setattr(finite_check, "_in_background", lambda tensor: True)
    monkeypatch.setattr(kept, "_at_hand", lambda tensor: False)
    monkeypatch.setattr(finite_check, "_Answer", Arriving)
    monkeypatch.setattr(finite_check, "_travelling", [])
    monkeypatch.setattr(finite_check.FiniteCheck, "raise_if_bad", judge_on_the_host)
    monkeypatch.setattr(Arriving, "arrives", True)
    monkeypatch.setattr(Arriving, "read_so_far", [], raising=False)
    return watch


def step(layer: nn.Module, x: Tensor, watch: Watch) -> list[Tensor]:
    """Forward, backward and the optimiser's step, then evaluation; what came out."""
    network = nn.Sequential(nn.Conv2d(3, CHANNELS, 3), layer, nn.ReLU())
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    with watch:
        for _ in range(2):
            optimizer.zero_grad()
            y = network(x)
            y.pow(3).mean().backward()
            optimizer.step()
    network.eval()  # decomposes, once
    with watch:
        evaluated = network(x)
    return [y, evaluated, *(p.grad for p in network.parameters() if p.grad is not None)]


def images() -> Tensor:
    return torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(0))


MAKERS: dict[str, Callable[..., nn.Module]] = {
    "ZCAWhitening": lambda **options: eg.nn.ZCAWhitening(CHANNELS, group_size=4, **options),
    "PCADenoising by rank": lambda **options: eg.nn.PCADenoising(CHANNELS, rank=4, **options),
    "PCADenoising by energy": lambda **options: eg.nn.PCADenoising(CHANNELS, energy=0.9, **options),
}


@pytest.mark.parametrize("errors", ["raise", "skip"])
@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("gradient", GRADIENTS, ids=repr)
@pytest.mark.parametrize("name", MAKERS)
def test_training_step(
    name: str, gradient: eg.gradients.GradientRule | None, momentum: float | None, errors: str, watch: Watch
) -> None:
    layer = MAKERS[name](gradient=gradient, momentum=momentum, errors=errors, solver=Exempt(watch))
    assert all(result.isfinite().all() for result in step(layer, images(), watch))
    assert bool(Arriving.read_so_far) == (errors == "raise")


@pytest.mark.parametrize("errors", ["raise", "skip"])
def test_training_step_of_the_papers_baselines(errors: str, watch: Watch) -> None:
    """Power iteration is no decomposition of torch's, and needs no exemption; the SVD does."""
    for options in (
        {"solver": eg.solvers.PowerIteration(3), "gradient": eg.Unrolled()},
        {"solver": Exempt(watch, "svd")},
    ):
        layer = eg.nn.ZCAWhitening(CHANNELS, group_size=4, eps=0.1, errors=errors, **options)  # type: ignore[arg-type]
        step(layer, images(), watch)


@pytest.mark.parametrize("errors", ["raise", "skip"])
@pytest.mark.parametrize("function", ["sqrtm", "logm", 0.3])
def test_pooling_step(function: str | float, errors: str, watch: Watch) -> None:
    layer = eg.nn.CovariancePooling(function, eps=0.1, errors=errors, solver=Exempt(watch))
    assert all(result.isfinite().all() for result in step(layer, images(), watch))


@pytest.mark.parametrize("channels_last", [False, True])
def test_half_precision_step(channels_last: bool, watch: Watch) -> None:
    x = images().to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        step(eg.nn.ZCAWhitening(CHANNELS, group_size=4, solver=Exempt(watch)), x, watch)


def test_an_answer_that_arrived_raises(watch: Watch) -> None:
    """As on a CPU: the error names the channels, and nothing has changed."""
    layer = eg.nn.ZCAWhitening(CHANNELS, group_size=4)
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    x = torch.randn(9, CHANNELS)
    x[3, 5] = torch.nan
    with pytest.raises(torch.linalg.LinAlgError, match="of channels 4 to 7 is not finite"):
        layer(x)
    torch.testing.assert_close(layer.state_dict(), before, rtol=0, atol=0)
    for broken in (lambda: eg.denoise(x, rank=2), lambda: eg.pool_covariance(x.view(1, 1, -1))):
        with pytest.raises(torch.linalg.LinAlgError, match="is not finite"):
            broken()


def test_an_answer_that_did_not_arrive_shows_as_nan(watch: Watch) -> None:
    """Of the group that is not finite, and of no other; waiting for it would cost every step."""
    Arriving.arrives = False
    x = torch.randn(9, CHANNELS)
    expected = eg.whiten(x, group_size=4)
    x[3, 5] = torch.nan
    y = eg.whiten(x, group_size=4)
    assert y[:, 4:8].isnan().all()
    others = [0, 1, 2, 3, 8, 9]
    torch.testing.assert_close(y[:, others], expected[:, others], rtol=0, atol=0)
    assert eg.pool_covariance(x.view(1, 1, -1)).isnan().all()


def test_an_answer_that_arrives_late_raises_late(watch: Watch) -> None:
    """Once, in the first call after it, and what that call was to do is not done."""
    layer = eg.nn.ZCAWhitening(CHANNELS, group_size=4)
    good, bad = torch.randn(2, 9, CHANNELS)
    bad[3, 5] = torch.nan
    Arriving.arrives = False
    layer(good)
    assert layer(bad)[:, 4:8].isnan().all()
    assert layer.running_covariance.isfinite().all()
    Arriving.arrives = True
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    with pytest.raises(torch.linalg.LinAlgError, match="of channels 4 to 7 is not finite"):
        layer(good)
    torch.testing.assert_close(layer.state_dict(), before, rtol=0, atol=0)
    layer(good)


def test_a_captured_graph_does_not_ask(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finite_check, "_is_captured", lambda tensor: True)
    x = torch.randn(9, CHANNELS)
    x[3, 5] = torch.nan
    y = eg.nn.ZCAWhitening(CHANNELS, group_size=4, solver=Exempt(watch))(x)
    assert y[:, 4:8].isnan().all()
    assert y[:, :4].isfinite().all()
    assert not Arriving.read_so_far
    assert not finite_check._travelling


def test_answers_under_transforms(watch: Watch) -> None:
    x = torch.randn(3, 9, CHANNELS)
    whitened = torch.func.vmap(lambda x: eg.whiten(x, group_size=4))(x)
    torch.testing.assert_close(whitened[1], eg.whiten(x[1], group_size=4))
    torch.func.jvp(lambda x: eg.whiten(x, group_size=4), (x[0],), (x[1],))
    x[1, 3, 9] = torch.nan
    with pytest.raises(torch.linalg.LinAlgError, match="of channels 8 to 9 is not finite"):
        torch.func.vmap(lambda x: eg.whiten(x, group_size=4))(x)


WAITERS: dict[str, Callable[[Tensor], object]] = {
    "item": lambda x: x.sum().item(),
    "bool": lambda x: bool((x > 0).all()),
    "nonzero": lambda x: (x > 0).nonzero(),
    "mask": lambda x: x[x > 0],
    "assigned mask": lambda x: x.clone().__setitem__(x > 0, torch.zeros(())),
    "masked_select": lambda x: x.masked_select(x > 0),
    "unique": lambda x: x.unique(),
    "inverse": lambda x: torch.linalg.inv(x @ x.mT + torch.eye(3)),
    "eigh": lambda x: torch.linalg.eigh(x @ x.mT),
    "equal": lambda x: torch.equal(x, x + 1),
    "repeat_interleave": lambda x: x.repeat_interleave(torch.tensor([1, 2, 3]), dim=0),
}


@pytest.mark.parametrize("name", WAITERS)
def test_the_watch_sees(name: str) -> None:
    with pytest.raises(HostWaitsError), Watch():
        WAITERS[name](torch.randn(3, 3))


# What is left of a device if only shapes, dtypes and places are computed.


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex128])
@pytest.mark.parametrize(("name", "call"), CASES)
def test_every_function_stays_on_its_device(name: str, call: Callable[[Tensor], Tensor], dtype: torch.dtype) -> None:
    """Forward and backward; and no constant is sent to the device, which waits as well."""
    with FakeTensorMode(), Watch(moves_only=True):
        A = torch.empty(5, 3, 3, dtype=dtype, device=DEVICE, requires_grad=True)
        loss_of(call)(A).backward()
        assert A.grad is not None
        assert A.grad.device.type == DEVICE


@pytest.mark.parametrize("gradient", RULES, ids=repr)
def test_every_rule_stays_on_its_device(gradient: eg.gradients.GradientRule) -> None:
    with FakeTensorMode(), Watch(moves_only=True):
        A = torch.empty(5, 3, 3, device=DEVICE, requires_grad=True)
        L, V = eg.eigh(A, gradient=gradient)
        (gA,) = torch.autograd.grad(L.sum() + V.sum(), A, create_graph=True)
        (second,) = torch.autograd.grad(gA.sum(), A)
        assert second.device.type == DEVICE


@pytest.mark.parametrize("solver", ["auto", "eigh", "svd", "qr", eg.solvers.PowerIteration(2)], ids=repr)
def test_every_solver_stays_on_its_device(solver: str | eg.solvers.Solver) -> None:
    with FakeTensorMode(), Watch(moves_only=True):
        A = torch.empty(5, 3, 3, device=DEVICE, requires_grad=True)
        eg.projector(A, 1, solver=solver).sum().backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("errors", ["raise", "skip"])
@pytest.mark.parametrize("gradient", GRADIENTS, ids=repr)
@pytest.mark.parametrize("name", [*MAKERS, "CovariancePooling"])
def test_every_layer_stays_on_its_device(
    name: str, gradient: eg.gradients.GradientRule | None, errors: str, dtype: torch.dtype
) -> None:
    with FakeTensorMode():
        if name == "CovariancePooling":
            layer: nn.Module = eg.nn.CovariancePooling(errors=errors)
        else:
            layer = MAKERS[name](gradient=gradient, errors=errors, momentum=None, device=DEVICE)
        for memory_format in (torch.contiguous_format, torch.channels_last):
            x = torch.empty(8, CHANNELS, 6, 6, dtype=dtype, device=DEVICE).to(memory_format=memory_format)
            x.requires_grad_()
            with Watch(moves_only=True):
                layer.train()(x).sum().backward()
                layer.eval()(x).sum().backward()
            assert x.grad is not None
            assert x.grad.device.type == DEVICE


def test_fake_tensors_do_not_reach_the_compiled_kernel() -> None:
    """They say that they are on a CPU, and have no memory: it would read from address 0."""
    with FakeTensorMode():
        A = torch.empty(300, 4, 4, requires_grad=True)
        for solver in ("auto", "native")[: 1 + native.available()]:
            eg.eigh(A, solver=solver).eigenvectors.sum().backward()
        eg.inv_sqrtm(A).sum().backward()
        eg.nn.ZCAWhitening(4)(torch.empty(64, 4, 8, 8, requires_grad=True)).sum().backward()


def test_fake_cuda_decomposed() -> None:
    with FakeTensorMode(), Watch(moves_only=True):
        L, V = eg.eigh(torch.empty(2, 50_000, 3, 3, device="cuda"))
    assert (L.shape, V.shape, V.stride()[-2:]) == ((2, 50_000, 3), (2, 50_000, 3, 3), (1, 3))


@pytest.mark.skipif(torch.version.cuda is None, reason="torch was built without CUDA, and cannot write to its tensors")
def test_fake_cuda() -> None:
    """What asks whether a tensor is on CUDA, without a GPU: forward only, since autograd would look for one."""
    with FakeTensorMode(), Watch(moves_only=True):
        x = torch.empty(8, CHANNELS, 6, 6, device="cuda")
        for errors in ("raise", "skip"):
            assert eg.whiten(x, group_size=4, errors=errors).device.type == "cuda"
            assert eg.denoise(x, rank=4, errors=errors).device.type == "cuda"
            assert eg.pool_covariance(x, errors=errors).device.type == "cuda"


def test_the_fake_device_sees() -> None:
    with FakeTensorMode(), Watch(moves_only=True):
        A = torch.empty(3, 3, device=DEVICE)
        with pytest.raises((RuntimeError, HostWaitsError)):
            A + torch.eye(3)
        with pytest.raises(HostWaitsError):
            torch.tensor([1.0, 2.0], device=DEVICE)
        with pytest.raises(HostWaitsError):
            A + torch.tensor(1.0)
