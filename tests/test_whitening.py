"""The whitening layer: what it computes, and BatchNorm's contract around it."""

import copy

import pytest
import torch
import torch.multiprocessing
from torch import Tensor, nn

import eigengrad as eg

PLAIN = {"relative_eps": 0.0, "shrinkage": 0.0}
"""The covariance as it is, plus eps: the textbook's whitening, and the paper's."""
SHAPES = [(40, 10), (30, 10, 1), (16, 10, 7), (16, 10, 3, 3), (8, 10, 6, 5), (4, 10, 2, 3, 4)]


def mixed(shape: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype = torch.float64) -> Tensor:
    """Correlated channels with a mean."""
    mixing = torch.eye(shape[1], dtype=dtype) + 0.4 * torch.randn(shape[1], shape[1], dtype=dtype, generator=generator)
    data = torch.randn(shape[0], *shape[2:], shape[1], dtype=dtype, generator=generator) @ mixing + 3.0
    return data.movedim(-1, 1)


def by_hand(x: Tensor, d: int, eps: float = 1e-4) -> Tensor:
    """One group after the other, by the eigenvectors of torch."""
    outputs = []
    for group in x.split(d, dim=1):
        data = group.movedim(1, 0).flatten(1)
        centred = data - data.mean(dim=1, keepdim=True)
        covariance = centred @ centred.mT / centred.shape[1]
        L, V = torch.linalg.eigh(covariance + eps * torch.eye(len(covariance), dtype=x.dtype))
        whitened = (V * L.rsqrt()) @ V.mT @ centred
        outputs.append(whitened.reshape(group.movedim(1, 0).shape).movedim(0, 1))
    return torch.cat(outputs, dim=1)


@pytest.mark.parametrize("d", [1, 3, 4, 5, 10])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("gradient", [None, eg.Exact()], ids=repr)
def test_values_and_gradients(
    shape: tuple[int, ...], d: int, gradient: eg.gradients.GradientRule | None, generator: torch.Generator
) -> None:
    """Remainder groups included: 10 channels are not a multiple of 3 or 4."""
    x = mixed(shape, generator).requires_grad_()
    y, expected = eg.whiten(x, group_size=d, gradient=gradient, **PLAIN), by_hand(x, d)
    torch.testing.assert_close(y, expected)
    G = torch.randn(shape, dtype=x.dtype, generator=generator)
    torch.testing.assert_close(torch.autograd.grad(y, x, G), torch.autograd.grad(expected, x, G))


def test_output_covariance(generator: torch.Generator) -> None:
    x = mixed((64, 10, 4, 4), generator, torch.float32)
    data = x.movedim(1, 0).flatten(1)
    y = eg.whiten(x, group_size=4, **PLAIN).movedim(1, 0).flatten(1)
    for block in (slice(0, 4), slice(4, 8), slice(8, 10)):
        C = data[block].cov(correction=0)
        expected = C @ torch.linalg.inv(C + 1e-4 * torch.eye(len(C)))
        torch.testing.assert_close(y[block].cov(correction=0), expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("gradient", [None, eg.PowerIteration(), eg.Taylor(), eg.Masked()], ids=repr)
@pytest.mark.parametrize("solver", ["eigh", "svd"])
def test_rank_deficient_input(gradient: eg.gradients.GradientRule | None, solver: str) -> None:
    """Equal and constant channels: a covariance of rank 1 and eigenvalues tied at eps."""
    x = torch.linspace(-1, 1, 50)[:, None].repeat(1, 6)
    x[:, 4:] = 2.0
    x.requires_grad_()
    y = eg.whiten(x, gradient=gradient, solver=solver)
    (y**3).sum().backward()
    assert y.isfinite().all()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_rounding_below_eps_is_lifted() -> None:
    """Large variances put rounding errors above eps; the smallest eigenvalue must still count as eps."""
    x = 300 * torch.randn(200, 1, generator=torch.Generator().manual_seed(0)).repeat(1, 8)
    assert eg.whiten(x, gradient=eg.PowerIteration()).isfinite().all()
    assert eg.whiten(x).isfinite().all()


def test_groups_of_one_are_batch_norm(generator: torch.Generator) -> None:
    x = mixed((16, 10, 3, 3), generator, torch.float32)
    whitening, batchnorm = eg.nn.ZCAWhitening(10, momentum=0.1, group_size=1), nn.BatchNorm2d(10, eps=1e-4)
    torch.testing.assert_close(whitening(x), batchnorm(x))
    torch.testing.assert_close(whitening.running_mean, batchnorm.running_mean)


def test_running_statistics(generator: torch.Generator) -> None:
    layer = eg.nn.ZCAWhitening(10, momentum=0.25, group_size=4, dtype=torch.float64, shrinkage=0.0)
    x = mixed((32, 10, 3, 3), generator)
    layer(x)
    assert layer.num_batches_tracked == 1
    torch.testing.assert_close(layer.running_mean, 0.25 * x.mean(dim=(0, 2, 3)))
    initial = torch.zeros(10, 4, dtype=torch.float64)
    initial[torch.arange(10), torch.arange(10) % 4] = 1.0
    C = x[:, 8:].movedim(1, 0).flatten(1).cov(correction=0)
    torch.testing.assert_close(layer.running_covariance[8:, :2], (0.75 * initial[8:, :2]) + 0.25 * C)
    assert not layer.running_covariance[8:, 2:].any()
    layer.reset_running_stats()
    torch.testing.assert_close(layer.running_covariance, initial)
    assert layer.num_batches_tracked == 0


def test_momentum_none_averages(generator: torch.Generator) -> None:
    layer = eg.nn.ZCAWhitening(10, momentum=None, dtype=torch.float64, affine=False)
    batches = [mixed((40, 10), generator) for _ in range(3)]
    for batch in batches:
        layer(batch)
    torch.testing.assert_close(layer.running_mean, torch.stack(batches).mean(dim=(0, 1)))
    layer.reset_running_stats()
    y = layer(batches[0])
    torch.testing.assert_close(layer.eval()(batches[0]), y)


def test_without_running_statistics(generator: torch.Generator) -> None:
    x = mixed((16, 10, 3, 3), generator, torch.float32)
    layer = eg.nn.ZCAWhitening(10, track_running_stats=False, affine=False)
    assert not layer.state_dict()
    torch.testing.assert_close(layer(x), layer.eval()(x))


def test_state_dict_round_trip(generator: torch.Generator) -> None:
    x = mixed((16, 10, 3, 3), generator, torch.float32)
    layer, other = eg.nn.ZCAWhitening(10, group_size=3), eg.nn.ZCAWhitening(10, group_size=3)
    layer(x)
    other.load_state_dict(layer.state_dict())
    torch.testing.assert_close(other.eval()(x), layer.eval()(x), rtol=0, atol=0)
    torch.testing.assert_close(copy.deepcopy(layer)(x), layer(x), rtol=0, atol=0)
    assert repr(layer) == (
        "ZCAWhitening(10, eps=0.0001, momentum=0.25, affine=True, bias=True, track_running_stats=True, group_size=3)"
    )


def test_half_precision_and_autocast(generator: torch.Generator) -> None:
    x = mixed((64, 10, 3, 3), generator, torch.float32)
    layer = eg.nn.ZCAWhitening(10, group_size=5)
    expected = layer(x)
    for y in (layer(x.bfloat16()), layer(x.half())):
        torch.testing.assert_close(y.float(), expected, rtol=0, atol=0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(layer(x), expected)


def test_empty_batch() -> None:
    layer = eg.nn.ZCAWhitening(10, group_size=4)
    for shape in ((0, 10), (0, 10, 3, 3), (2, 10, 0)):
        assert layer(torch.zeros(shape)).shape == shape
        assert layer.num_batches_tracked == 0
        assert not layer.running_mean.any()


def test_compile(generator: torch.Generator) -> None:
    x = mixed((16, 10, 3, 3), generator)
    layer = eg.nn.ZCAWhitening(10, group_size=4, dtype=torch.float64)
    twin = copy.deepcopy(layer)
    compiled = torch.compile(twin, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), layer(x))
    torch.testing.assert_close(twin.running_covariance, layer.running_covariance)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: eg.whiten(torch.zeros(3)), "x must be"),
        (lambda: eg.whiten(torch.zeros(1, 3)), "more than one value per channel"),
        (lambda: eg.whiten(torch.zeros(4, 3), group_size=4), "group_size must lie between 1 and .* 3, got 4"),
        (lambda: eg.whiten(torch.zeros(4, 3), eps=-1e-4), "eps must not be negative"),
        (lambda: eg.whiten(torch.zeros(4, 3), relative_eps=1.5), "relative_eps must lie between 0 and 1"),
        (lambda: eg.whiten(torch.zeros(4, 3), shrinkage="oas"), "shrinkage must be 'auto' or"),
        (lambda: eg.whiten(torch.zeros(4, 3), method="qr"), "method must be one of"),
        (lambda: eg.whiten(torch.zeros(4, 3), process_group="world"), "process_group must be a process group, 'all'"),
        (
            lambda: eg.whiten(torch.zeros(3, 4, 4), torch.zeros(3), torch.zeros(3, 3)),
            r"running_mean must have shape \(4,",
        ),
        (lambda: eg.nn.ZCAWhitening(3)(torch.zeros(3, 4, 4)), "add a batch dimension"),
        (lambda: eg.nn.ZCAWhitening(3, dim=0), "dim must not be 0"),
        (lambda: eg.whiten(torch.zeros(4, 3), training=False), "needs running_mean"),
        (lambda: eg.whiten(torch.zeros(4, 3), torch.zeros(2)), r"running_mean must have shape \(3,\)"),
        (lambda: eg.nn.ZCAWhitening(0), "num_features must be an int of at least 1"),
        (lambda: eg.nn.ZCAWhitening(8, group_size=9), "group_size must lie between"),
        (lambda: eg.nn.ZCAWhitening(8, eps=-1.0), "eps must not be negative"),
        (lambda: eg.nn.ZCAWhitening(8, solver="lapack"), "solver must be one of"),
        (lambda: eg.nn.ZCAWhitening(8)(torch.zeros(4, 7)), r"expected \(N, 8\)"),
    ],
)
def test_errors(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()  # type: ignore[operator]
    with pytest.raises(TypeError, match="floating point"):
        eg.whiten(torch.zeros(4, 3, dtype=torch.long))


def synchronised(rank: int, path: str, x: Tensor, sizes: list[int]) -> None:
    """One of several processes: its own rows of the batch, and the joined result to compare with."""
    torch.distributed.init_process_group("gloo", f"file://{path}", rank=rank, world_size=len(sizes))
    world = torch.distributed.group.WORLD
    for errors, gradient, everybody in (("raise", None, "all"), ("skip", eg.PowerIteration(), world)):
        whole, part = x.clone().requires_grad_(), x.split(sizes)[rank].clone().requires_grad_()
        joined, shared = (
            eg.nn.ZCAWhitening(
                10, momentum=None, group_size=4, errors=errors, gradient=gradient, process_group=processes
            )
            for processes in (None, everybody)
        )
        expected, actual = joined(whole), shared(part)
        torch.testing.assert_close(actual, expected.split(sizes)[rank], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(shared.state_dict(), joined.state_dict(), rtol=1e-5, atol=1e-5)
        (expected**3).mean().backward()
        (actual**3).sum().div(expected.numel()).backward()
        assert whole.grad is not None
        torch.testing.assert_close(part.grad, whole.grad.split(sizes)[rank], rtol=1e-5, atol=1e-5)
        for mine, all_of_it in zip(shared.parameters(), joined.parameters(), strict=True):
            assert mine.grad is not None
            torch.distributed.all_reduce(mine.grad)
            torch.testing.assert_close(mine.grad, all_of_it.grad, rtol=1e-5, atol=1e-5)

    second = []
    for data, processes in ((x, None), (x.split(sizes)[rank], torch.distributed.group.WORLD)):
        data = data.double().requires_grad_()
        loss = (eg.whiten(data, group_size=4, process_group=processes) ** 3).sum()
        (gradient,) = torch.autograd.grad(loss, data, create_graph=True)
        second.append(torch.autograd.grad((gradient**2).sum(), data)[0])
    torch.testing.assert_close(second[1], second[0].split(sizes)[rank])

    # One process's NaN is everybody's: all skip the same group, and stay together.
    before = shared.running_covariance.clone()
    bad = 2 * part.detach()
    bad[:1, 5] = torch.nan
    shared(bad)
    torch.testing.assert_close(shared.running_covariance[4:8], before[4:8], rtol=0, atol=0)
    assert not torch.equal(shared.running_covariance[:4], before[:4])
    shared(part[:0])  # nobody has seen anything
    assert shared.num_batches_tracked == 2
    with pytest.raises(torch.linalg.LinAlgError, match="channels 4 to 7"):
        eg.whiten(bad, group_size=4, process_group=torch.distributed.group.WORLD)
    torch.distributed.barrier()  # nobody leaves while another still talks to it
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("sizes", [[11, 5], [16, 0]])
def test_two_processes_are_one(sizes: list[int], tmp_path: object, generator: torch.Generator) -> None:
    """Unequal and empty batches included, gradients included, to 1e-5."""
    x = mixed((16, 10, 3, 3), generator, torch.float32)
    torch.multiprocessing.spawn(synchronised, args=(f"{tmp_path}/rendezvous", x, sizes), nprocs=len(sizes))


def test_affine(generator: torch.Generator) -> None:
    """Scale and offset, in training and evaluation, with their gradients."""
    x = mixed((16, 10, 3, 3), generator)
    layer = eg.nn.ZCAWhitening(10, group_size=4, dtype=torch.float64)
    nn.init.normal_(layer.weight, generator=generator)
    nn.init.normal_(layer.bias, generator=generator)
    per_channel = [p.view(10, 1, 1) for p in layer.parameters()]
    G = torch.randn(x.shape, dtype=x.dtype, generator=generator)
    for training in (True, False):
        layer.train(training)
        y = layer(x)
        plain = eg.whiten(
            x, layer.running_mean, layer.running_covariance, training=training, momentum=0.0, group_size=4
        )
        torch.testing.assert_close(y, plain * per_channel[0] + per_channel[1])
        weight, bias = torch.autograd.grad(y, [layer.weight, layer.bias], G)
        torch.testing.assert_close(weight, (G * plain).sum(dim=(0, 2, 3)))
        torch.testing.assert_close(bias, G.sum(dim=(0, 2, 3)))


@pytest.mark.parametrize("scale", [1e-15, 1e-13, 1e14, 1e17])
def test_gradients_at_scales_whose_fourth_powers_are_no_numbers(scale: float, generator: torch.Generator) -> None:
    x, g = (torch.randn(64, 6, generator=generator) for _ in range(2))

    def gradient(dtype: torch.dtype) -> Tensor:
        leaf = (scale * x).to(dtype).requires_grad_()
        return torch.autograd.grad(eg.whiten(leaf, eps=0.0), leaf, g.to(dtype))[0].double()

    expected = gradient(torch.float64)
    assert (gradient(torch.float32) - expected).norm() < 1e-6 * expected.norm()


def test_a_constant_group_without_a_floor_gets_no_gradient() -> None:
    x = torch.ones(10, 3, requires_grad=True)
    eg.whiten(x, eps=0.0).sum().backward()
    assert x.grad is not None
    assert not x.grad.any()
