"""Running covariances, and the matrix that evaluation derives from them: kept until they change, by whatever means."""

import copy
import io
import pickle
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import eigengrad as eg
from eigengrad.conditioning import floored, shrunk
from eigengrad_lab.paper_whitening import PaperWhitening

Layer = eg.nn.ZCAWhitening | eg.nn.PCADenoising
LAYERS: dict[str, Callable[..., Layer]] = {
    "whitening": lambda **options: eg.nn.ZCAWhitening(8, **options),
    "groups": lambda **options: eg.nn.ZCAWhitening(8, group_size=3, **options),
    "cholesky": lambda **options: eg.nn.ZCAWhitening(8, method="cholesky", **options),
    "denoising": lambda **options: eg.nn.PCADenoising(8, rank=3, **options),
}
every_layer = pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.eye(shape[1]) + 0.3 * torch.randn(shape[1], shape[1], generator=torch.Generator().manual_seed(5))
    return torch.einsum("cd,nd...->nc...", mixing, torch.randn(shape, generator=generator)).to(dtype) + 1.0


def anew(layer: Layer, x: Tensor) -> Tensor:
    """What evaluation of a layer with these estimates gives, with nothing kept."""
    fresh = type(layer)(8, **{"rank": 3} if isinstance(layer, eg.nn.PCADenoising) else {})
    if isinstance(layer, eg.nn.ZCAWhitening):
        fresh = eg.nn.ZCAWhitening(8, group_size=layer.group_size, method=layer.method)
    fresh.eps = layer.eps
    fresh.load_state_dict(layer.state_dict())
    return fresh.to(x.dtype).eval()(x)


def test_a_black_batch_is_forgotten() -> None:
    """The variance in evaluation after 49 normal batches and one without variance: 119.7 by an average of matrices."""
    torch.manual_seed(0)
    layer, norm = eg.nn.ZCAWhitening(8, momentum=0.1, affine=False), nn.BatchNorm2d(8, affine=False)
    paper = PaperWhitening(8, group_size=8, gradient=None, solver="auto")
    for step in range(50):
        x = torch.randn(4, 8, 8, 8) if step < 49 else torch.zeros(4, 8, 8, 8)
        for module in (layer, norm, paper):
            module(x)
    x = torch.randn(64, 8, 8, 8)
    expected = norm.eval()(x).var().item()
    assert abs(layer.eval()(x).var().item() - expected) < 0.05
    assert paper.eval()(x).var().item() > 50


@pytest.mark.parametrize(("d", "m"), [(16, 16), (64, 32), (64, 128), (256, 128)])
def test_stationary_data(d: int, m: int) -> None:
    """The mean eigenvalue of the output's covariance in evaluation is near 1, with few observations, too."""
    torch.manual_seed(0)
    Q = torch.linalg.qr(torch.randn(d, d))[0]
    S = (Q * torch.linspace(0.3, 1, d)) @ Q.T
    layer = eg.nn.ZCAWhitening(d, affine=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(60):
            layer(torch.randn(m, d) @ S)
    mean = torch.linalg.eigvalsh(layer.eval()(torch.randn(20_000, d) @ S).T.cov()).mean().item()
    assert 0.85 < mean < 1.15


@every_layer
def test_evaluation_is_that_of_the_running_covariance(make: Callable[..., Layer]) -> None:
    """In double precision, against the formula; and the function, which keeps nothing, agrees."""
    layer, x = make(dtype=torch.float64), draw(30, 8, 4, dtype=torch.float64)
    for seed in range(3):
        layer(draw(30, 8, 4, seed=seed, dtype=torch.float64))
    layer.eval()
    if isinstance(layer, eg.nn.PCADenoising):
        options, function = {"rank": 3}, eg.denoise
    else:
        options, function = {"group_size": layer.group_size, "method": layer.method}, eg.whiten
    y = function(x, layer.running_mean, layer.running_covariance, training=False, **options)
    torch.testing.assert_close(layer(x), y)
    if isinstance(layer, eg.nn.ZCAWhitening):
        first = layer.running_covariance[: layer.group_size]
        A = floored(first, 1e-4, layer.relative_eps)
        L, V = torch.linalg.eigh(A)
        W = torch.linalg.inv(torch.linalg.cholesky(A)) if layer.method == "cholesky" else (V * L.rsqrt()) @ V.mT
        centred = x[:, : layer.group_size] - layer.running_mean[: layer.group_size, None]
        torch.testing.assert_close(layer(x)[:, : layer.group_size], W @ centred)


def ema(layer: Layer) -> Layer:
    averaged = AveragedModel(layer, multi_avg_fn=get_ema_multi_avg_fn(0.5), use_buffers=True)
    averaged.module.eval()(draw(4, 8))
    averaged.update_parameters(layer)
    other = copy.deepcopy(layer).train()
    other(draw(20, 8, seed=9))
    averaged.update_parameters(other)
    return averaged.module


def load(layer: Layer) -> Layer:
    other = copy.deepcopy(layer).train()
    other(draw(20, 8, seed=9))
    layer.load_state_dict(other.state_dict())
    return layer


def edit(change: Callable[[Layer], object]) -> Callable[[Layer], Layer]:
    def changed(layer: Layer) -> Layer:
        change(layer)
        return layer

    return changed


CHANGES: dict[str, Callable[[Layer], Layer]] = {
    "training": edit(lambda layer: (layer.train()(draw(20, 8, seed=9)), layer.eval())),
    "load_state_dict": load,
    "EMA": ema,
    "in place": edit(lambda layer: layer.running_covariance.mul_(4.0)),
    "by .data": edit(lambda layer: layer.running_covariance.data.mul_(4.0)),
    "by numpy": edit(lambda layer: layer.running_covariance.numpy().__imul__(4.0)),
    "another tensor": edit(lambda layer: setattr(layer, "running_covariance", 4.0 * layer.running_covariance)),
    "eps": edit(lambda layer: setattr(layer, "eps", 1.0)),
    "double": lambda layer: layer.double(),
    "reset": edit(lambda layer: layer.reset_running_stats()),
    "pickle": lambda layer: pickle.loads(pickle.dumps(layer)),
    "inference mode": edit(lambda layer: in_inference_mode(layer)),
}


def in_inference_mode(layer: Layer) -> None:
    with torch.inference_mode():
        layer.running_covariance = 4.0 * layer.running_covariance
        layer(draw(4, 8))


@every_layer
@pytest.mark.parametrize("how", CHANGES)
def test_what_is_kept_is_derived_anew(make: Callable[..., Layer], how: str) -> None:
    layer = make()
    layer(draw(30, 8))
    layer.eval()(draw(4, 8))
    layer = CHANGES[how](layer)
    x = draw(5, 8, dtype=layer.weight.dtype).requires_grad_()
    y = layer(x)
    torch.testing.assert_close(y, anew(layer, x), rtol=1e-5, atol=1e-5)
    y.sum().backward()
    assert x.grad is not None


@every_layer
def test_decompositions(make: Callable[..., Layer], monkeypatch: pytest.MonkeyPatch) -> None:
    """One a training step, one when evaluation begins, and none in evaluation."""
    module = eg.nn.denoising if make is LAYERS["denoising"] else eg.nn.whitening
    name = "projection" if make is LAYERS["denoising"] else "whitening_matrix"
    calls, derive = [], getattr(module, name)
    monkeypatch.setattr(module, name, lambda *arguments: (calls.append(1), derive(*arguments))[1])
    layer = make()
    for _ in range(3):
        layer(draw(30, 8))
    assert not calls
    layer.eval()
    assert len(calls) == 1
    for _ in range(3):
        layer(draw(4, 8))
        layer.eval()
        copy.deepcopy(layer)(draw(4, 8))
    assert len(calls) == 1
    assert list(layer.state_dict()) == ["weight", "bias", "running_mean", "running_covariance", "num_batches_tracked"]


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
def test_compiled_evaluation_sees_changes(make: Callable[..., Layer]) -> None:
    """In the same graph, without a decomposition as long as nothing changes."""
    torch._dynamo.reset()
    layer, x = make(), draw(6, 8, 3)
    layer(draw(30, 8, 3))
    compiled = torch.compile(layer.eval(), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), layer(x))
    layer.running_covariance.data.mul_(4.0)
    with torch.compiler.set_stance("fail_on_recompile"):
        torch.testing.assert_close(compiled(x), anew(layer, x))


def test_vmap_over_models() -> None:
    """An ensemble in evaluation: estimates are stacked, and each has a matrix of its own."""
    layers = [eg.nn.ZCAWhitening(8) for _ in range(3)]
    for seed, layer in enumerate(layers):
        layer(draw(30, 8, seed=seed))
        layer.eval()
    parameters, buffers = torch.func.stack_module_state(layers)
    x = draw(5, 8)
    y = torch.func.vmap(lambda p, b: torch.func.functional_call(layers[0], (p, b), (x,)))(parameters, buffers)
    torch.testing.assert_close(y, torch.stack([layer(x) for layer in layers]))


def test_old_state_dicts_are_refused() -> None:
    state = eg.nn.ZCAWhitening(4).state_dict()
    state["running_whitening"] = state.pop("running_covariance")
    for strict in (True, False):
        with pytest.raises(RuntimeError, match=r"average of whitening matrices.*update_statistics"):
            eg.nn.ZCAWhitening(4).load_state_dict(state, strict=strict)
    old = eg.nn.PCADenoising(4, rank=2).state_dict() | {"running_projection": torch.eye(4)}
    eg.nn.PCADenoising(4, rank=2).load_state_dict(old)  # was derived


@every_layer
@pytest.mark.parametrize("how", ["half", "bfloat16", "to", "dtype", "assign"])
def test_estimates_are_wide(make: Callable[..., Layer], how: str) -> None:
    """A hundredth of a new estimate must not be lost in the rounding of the old one."""
    layer, reference = make(dtype=torch.bfloat16) if how == "dtype" else make(), make()
    if how == "assign":
        layer.load_state_dict(
            {n: t.half() if t.is_floating_point() else t for n, t in layer.state_dict().items()}, assign=True
        )
        layer.half()
    elif how != "dtype":
        layer = layer.to(torch.bfloat16) if how == "to" else getattr(layer, how)()
    assert layer.weight.dtype in (torch.half, torch.bfloat16)
    for module in (layer, reference):
        module.momentum = 1e-3
        for seed in range(40):
            module(draw(30, 8, seed=seed).to(layer.weight.dtype))
    for name in ("running_mean", "running_covariance"):
        assert layer.get_buffer(name).dtype == torch.float32
        torch.testing.assert_close(layer.get_buffer(name), reference.get_buffer(name), rtol=1e-4, atol=1e-4)


# Few observations.


def test_groups_are_at_most_64() -> None:
    assert eg.nn.ZCAWhitening(512).group_size == 64
    assert eg.nn.ZCAWhitening(100).running_covariance.shape == (100, 64)
    assert eg.nn.ZCAWhitening(48).group_size == 48
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.manual_seed(0)
        layer = eg.nn.ZCAWhitening(512, affine=False)
        for _ in range(30):
            layer(torch.randn(392, 512))
    assert 0.8 < layer.eval()(torch.randn(4000, 512)).var().item() < 1.2


def test_few_observations_warn_once() -> None:
    """By layer, group size and count; neither in evaluation nor twice."""
    layer = eg.nn.ZCAWhitening(16, group_size=8)
    layer.eval()(draw(4, 16))
    with pytest.warns(UserWarning, match=r"ZCAWhitening\(16, .*group_size=8\): 15 observations .* 8 channels.* 16\."):
        layer.train()(draw(15, 16))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer(draw(15, 16))
        eg.nn.ZCAWhitening(16, group_size=8)(draw(16, 16))
        eg.nn.ZCAWhitening(16, group_size=8)(draw(0, 16))


@pytest.mark.parametrize("m", [5, 40, 4000])
def test_automatic_shrinkage(m: int) -> None:
    """The share is the formula's, lowers the error of a covariance from few observations, and leaves one of many."""
    generator = torch.Generator().manual_seed(m)
    d = 20
    truth = 0.3 ** (torch.arange(d)[:, None] - torch.arange(d)).abs().double()
    root, before, after = torch.linalg.cholesky(truth), 0.0, 0.0
    for _ in range(20):
        C = torch.cov((root @ torch.randn(d, m, dtype=torch.float64, generator=generator)), correction=0)
        S = shrunk(C[None], "auto", m)[0]
        off = ~torch.eye(d, dtype=torch.bool)
        wrong = (C**2 + C.diagonal()[:, None] * C.diagonal())[off].sum() / (m + 1)
        s = min(1.0, (wrong / (C[off] ** 2).sum()).item())
        torch.testing.assert_close(S, torch.where(off, (1 - s) * C, C))
        before, after = before + (C - truth).norm() ** 2, after + (S - truth).norm() ** 2
    assert after < before if m < 1000 else after < 1.05 * before


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e15])
def test_shrinkage_at_any_scale(scale: float) -> None:
    C = shrunk(scale * torch.tensor([[[2.0, 1.0], [1.0, 3.0]], [[1.0, 0.0], [0.0, 1.0]]]), "auto", 9) / scale
    torch.testing.assert_close(C[0], shrunk(torch.tensor([[[2.0, 1.0], [1.0, 3.0]]]), "auto", 9)[0])
    torch.testing.assert_close(C[1], torch.eye(2))
    assert not shrunk(torch.zeros(1, 3, 3), "auto", 9).any()


@pytest.mark.parametrize("shrinkage", [0.0, 0.3, "auto"])
@pytest.mark.parametrize("method", ["zca", "cholesky"])
@pytest.mark.parametrize("relative_eps", [0.0, 0.1, 1.0])
def test_gradcheck(shrinkage: float | str, method: str, relative_eps: float) -> None:
    """What is added and shrunk depends on the data, and is differentiated; second derivatives as well."""
    x = draw(9, 4, dtype=torch.float64).requires_grad_()

    def function(x: Tensor) -> Tensor:
        return eg.whiten(x, shrinkage=shrinkage, method=method, relative_eps=relative_eps, group_size=3, eps=0.01)

    assert torch.autograd.gradcheck(function, x)
    assert torch.autograd.gradgradcheck(function, x, atol=1e-4)


def test_cholesky_whitens() -> None:
    x = draw(500, 6, dtype=torch.float64)
    y = eg.whiten(x, method="cholesky", relative_eps=0.0, shrinkage=0.0, eps=0.0)
    torch.testing.assert_close(y.T.cov(correction=0), torch.eye(6, dtype=torch.float64))
    W = torch.linalg.lstsq(x - x.mean(dim=0), y).solution.mT
    torch.testing.assert_close(W, W.tril())


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e5])
def test_duplicate_channels_at_any_scale(scale: float) -> None:
    """A floor that is absolute lies below the rounding of large activations, and 42% of the output was noise."""
    x = scale * draw(400, 4).repeat(1, 2)
    y = eg.whiten(x, eps=0.0)
    expected = eg.whiten(x.double(), eps=0.0)
    torch.testing.assert_close(y.double(), expected, rtol=0, atol=1e-3)
    torch.testing.assert_close(y[:, :4], y[:, 4:], rtol=0, atol=1e-3)


def test_eps_of_zero() -> None:
    """As in BatchNorm; channels that do not vary are zero."""
    x = draw(50, 6)
    x[:, 4:] = 2.0
    for layer in (eg.nn.ZCAWhitening(6, eps=0.0, group_size=2), eg.nn.PCADenoising(6, eps=0.0, rank=2)):
        y = layer(x.requires_grad_())
        assert y.isfinite().all()
        assert layer.eval()(x).isfinite().all()
    torch.testing.assert_close(y[:, 4:], torch.zeros(50, 2))


# Nothing bad enters.


@every_layer
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_a_compiled_bad_batch_leaves_no_trace(make: Callable[..., Layer], value: float) -> None:
    """A graph cannot raise: the output is NaN, all estimates stay as they were, and the next batch is a good one."""
    torch._dynamo.reset()
    layer, x = make(), draw(20, 8, 3)
    layer(draw(20, 8, 3))
    bad, before = x.clone(), copy.deepcopy(layer.state_dict())
    bad[0, 1, 0] = value
    twin = copy.deepcopy(layer)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    y = compiled(bad)
    assert y[:, :3].isnan().all()
    torch.testing.assert_close(layer.state_dict(), before, rtol=0, atol=0)
    torch.testing.assert_close(compiled(x), twin(x), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(layer.state_dict(), twin.state_dict(), rtol=1e-5, atol=1e-5)
    with pytest.raises(torch.linalg.LinAlgError):
        twin(bad)


# Processes.


def test_all_processes_can_be_copied() -> None:
    """ "all" is a text, which is looked up when the layer runs: nobody else, until processes have been started."""
    layer = eg.nn.convert_sync(nn.Sequential(eg.nn.ZCAWhitening(8), nn.BatchNorm1d(8), eg.nn.PCADenoising(8, rank=2)))
    assert [getattr(module, "process_group", None) for module in layer] == ["all", None, "all"]
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    x = draw(20, 8)
    expected = eg.nn.ZCAWhitening(8)(x)
    for module in (copy.deepcopy(layer), AveragedModel(layer).module, torch.load(file, weights_only=False)):
        assert module[0].process_group == "all"
        torch.testing.assert_close(module[0](x), expected)
    assert "process_group='all'" in repr(layer)


# Estimates anew.


def test_update_statistics() -> None:
    """Both kinds of layers; averages over all batches; modes, momenta and frozen statistics as they were."""
    torch.manual_seed(0)
    frozen, uncounted = nn.BatchNorm1d(8), nn.BatchNorm1d(8)
    frozen.track_running_stats = False
    uncounted.num_batches_tracked = None
    model = nn.Sequential(eg.nn.ZCAWhitening(8, momentum=0.3, shrinkage=0.0), uncounted, frozen, nn.Dropout(0.1)).eval()
    model[1].train()
    batches = [draw(40, 8, seed=seed) for seed in range(4)]
    eg.nn.update_statistics(model, [(batch, 0) for batch in batches], device="cpu")
    torch.testing.assert_close(model[0].running_mean, torch.stack([batch.mean(dim=0) for batch in batches]).mean(dim=0))
    covariance = torch.stack([batch.T.cov(correction=0) for batch in batches]).mean(dim=0)
    torch.testing.assert_close(model[0].running_covariance, covariance)
    assert (model[0].momentum, model[0].num_batches_tracked, model[1].num_batches_tracked) == (0.3, 4, None)
    after = torch.stack([eg.whiten(batch, shrinkage=0.0).var(dim=0) for batch in batches])
    torch.testing.assert_close(uncounted.running_var, after.mean(dim=0), rtol=1e-4, atol=1e-4)
    assert [module.training for module in model.modules()] == [False, False, True, False, False]
    assert torch.equal(frozen.running_var, torch.ones(8))
    x = draw(5, 8)
    torch.testing.assert_close(model[0](x), anew_whitening(model[0], x))
    eg.nn.update_statistics(model, [{"x": batch} for batch in batches[:2]], forward=lambda m, batch: m(batch["x"]))
    assert model[0].num_batches_tracked == 2
    for wrong, message in ((nn.Sequential(nn.ReLU()), "no layer with running"), (model, "loader has no batch")):
        with pytest.raises(ValueError, match=message):
            eg.nn.update_statistics(wrong, [])


def anew_whitening(layer: eg.nn.ZCAWhitening, x: Tensor) -> Tensor:
    return eg.whiten(x, layer.running_mean, layer.running_covariance, training=False)


def test_update_statistics_puts_back_after_an_error() -> None:
    model = nn.Sequential(eg.nn.ZCAWhitening(8)).eval()
    with pytest.raises(ValueError, match="expected"):
        eg.nn.update_statistics(model, [torch.zeros(4, 9)])
    assert not model.training
    assert model[0].momentum == eg.nn.ZCAWhitening(8).momentum


# Where channels lie.


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize("shape", [(40, 8), (6, 9, 8), (4, 5, 6, 8)], ids=str)
def test_channels_last_of_all(make: Callable[..., Layer], shape: tuple[int, ...]) -> None:
    """Tokens and the images of ConvNeXt: as with the channels in front, and contiguous as the input is."""
    layer, plain, x = make(dim=-1), make(), draw(40 if len(shape) == 2 else 400, 8)[: torch.Size(shape[:-1]).numel()]
    x = x.reshape(shape)
    for training in (True, False):
        y = layer.train(training)(x)
        torch.testing.assert_close(y, plain.train(training)(x.movedim(-1, 1)).movedim(1, -1), rtol=1e-4, atol=1e-4)
        assert y.is_contiguous()
    with pytest.raises(ValueError, match="expected 8 channels in dimension -1"):
        layer(x[..., :7])


def test_style_transfer() -> None:
    """Features take on another's mean and covariance, sample by sample; gradients are exact."""
    F = eg.nn.functional
    content, style = (
        draw(3, 4, 7, 6, dtype=torch.float64),
        2.0 * draw(3, 4, 9, 5, seed=1, dtype=torch.float64).flip(1) + 1,
    )
    statistics = F.feature_statistics(style)
    torch.testing.assert_close(statistics.covariance[1], style[1].flatten(1).cov(correction=0))
    moved = F.colour_features(F.whiten_features(content, 0.0, relative_eps=0.0), *statistics, 0.0, relative_eps=0.0)
    for actual, expected in zip(F.feature_statistics(moved), statistics, strict=True):
        torch.testing.assert_close(actual, expected)
    x = draw(2, 3, 5, dtype=torch.float64).requires_grad_()
    S = [s[:2, :3] if s.dim() == 2 else s[:2, :3, :3] for s in statistics]
    assert torch.autograd.gradcheck(lambda x: F.colour_features(F.whiten_features(x, 0.1), *S), x)
    assert F.whiten_features(content.bfloat16()).dtype == torch.bfloat16
    with pytest.raises(ValueError, match=r"mean and covariance must be \(N, C\)"):
        F.colour_features(content, statistics.mean[:2], statistics.covariance)
    with pytest.raises(ValueError, match=r"x must be \(N, C, \*\)"):
        F.whiten_features(content[0, 0])
