"""Out of a network: in evaluation a layer is part of the convolution, or linear layer, before it."""

import copy
import warnings
from collections.abc import Iterator
from typing import Any, overload

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize, prune

from eigengrad.nn.normalization import Normalization

__all__ = ["fold"]

Transposed = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
Linear = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d | Transposed
LINEAR = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@overload
def fold(layer: Normalization, linear: Linear) -> Linear: ...
@overload
def fold(layer: nn.Module, linear: None = None) -> nn.Module: ...
def fold(layer: nn.Module, linear: nn.Module | None = None) -> nn.Module:
    """The convolution, or linear layer, that does what ``linear`` and then ``layer`` do in evaluation.

    Evaluation is an affine map of each group of channels, and so is part of the affine map before it: the network
    becomes one layer shorter, and exports to any format that knows convolutions. ``fold(model)`` does it for each layer
    of this package whose input is the output of a convolution, or linear layer, and of nothing else.

    Args:
        layer: whitening or denoising, with running estimates; or a whole network, in which ``torch.fx`` finds out what
            follows what. Where ``torch.fx`` cannot trace a module, its parts are looked at one by one, as if it called
            each of them as a whole; a warning names them.
        linear: what comes directly before: a linear layer, a convolution or a transposed one, or a subclass, also with
            a pruned or parametrised weight, which the copy has no more. Neither is changed. After a linear layer, the
            channels of ``layer`` must be the last dimension: its ``dim=1`` is that of ``(N, C)`` alone.

    Returns:
        A copy of ``linear`` with other weights, and with a bias. Of a network, a copy in which ``nn.Identity`` stands
        where layers were; a warning names those that stay, and says why.

    Raises:
        TypeError: for other layers; for a subclass whose forward does more than to apply its weight and its bias.
        ValueError: if the layer has no running estimates or another number of channels, or if a convolution's groups
            cut through a group of channels, which then depends on more inputs than one of them has; after a
            convolution, for a layer with ``dim=-1``; if there are hooks between the two; if a network has nothing to
            fold.

    Example:
        >>> import torch, eigengrad as eg
        >>> convolution, layer = torch.nn.Conv2d(3, 8, 3), eg.nn.ZCAWhitening(8).eval()
        >>> x = torch.randn(1, 3, 5, 5)
        >>> torch.allclose(eg.nn.fold(layer, convolution)(x), layer(convolution(x)), atol=1e-5)
        True
        >>> eg.nn.fold(torch.nn.Sequential(convolution, layer))[1]
        Identity()
    """
    if linear is None and isinstance(layer, nn.Module) and not isinstance(layer, Normalization):
        return _folded_network(layer)
    if not isinstance(layer, Normalization):
        raise TypeError(f"layer must be a layer of eigengrad.nn, got {type(layer).__name__}")
    if not isinstance(linear, LINEAR):
        raise TypeError(f"linear must be a Linear, Conv or ConvTranspose, got {type(linear).__name__}")
    if layer.running_mean is None or layer.running_covariance is None:
        raise ValueError("layer has no running estimates (track_running_stats=False), so evaluation is no fixed map")
    if layer._forward_hooks or layer._forward_pre_hooks or linear._forward_hooks:
        raise ValueError("there are hooks between linear and layer, or on layer, which a single module cannot call")
    if not isinstance(linear, nn.Linear) and layer.dim not in (1, 1 - linear.weight.dim()):
        raise ValueError(
            f"layer has its channels in dim={layer.dim}, but those of {type(linear).__name__} are in dim=1"
        )
    folded = _plain(linear)
    rows = _rows(folded)
    channels = len(rows)
    if channels != layer.num_features:
        raise ValueError(f"linear has {channels} outputs, but layer has {layer.num_features} channels")

    exact = torch.float64  # folding is done once: its rounding should not add to the network's
    weight = rows.to(exact)
    bias = weight.new_zeros(channels) if folded.bias is None else folded.bias.detach().to(exact)
    weights, biases = [], []
    with torch.no_grad():
        for part in layer.evaluation_maps(exact):
            block, mean, T = part.block, part.mean, part.matrix
            offset = torch.zeros_like(mean) if part.offset is None else part.offset
            groups, d, _ = T.shape
            _check_cut(folded, block.start, d, groups, channels)
            weights.append((T @ weight[block].reshape(groups, d, -1)).reshape(weight[block].shape))
            biases.append((T @ (bias[block].view(groups, d, 1) - mean) + offset).flatten())
        learned = folded.weight.requires_grad
        new = torch.empty_like(folded.weight).copy_(_from_rows(folded, torch.cat(weights)))
        folded.weight = nn.Parameter(new, learned)
        folded.bias = nn.Parameter(torch.cat(biases).to(new.dtype), learned)
    return folded


def _folded_network(model: nn.Module) -> nn.Module:
    folded, found = _copied(model), False
    left = {name: "nothing that can take it in comes directly before it" for name, _ in _layers(folded)}
    if not left:
        raise ValueError("model has no layer of eigengrad.nn to fold")
    alone = set()
    for part, before, name in list(_pairs(folded)):
        if name not in left:
            continue
        layer, linear = folded.get_submodule(name), folded.get_submodule(before)
        assert isinstance(layer, Normalization) and isinstance(linear, LINEAR)
        try:
            _put(folded, before, fold(layer, linear))
        except (TypeError, ValueError) as error:
            left[name] = str(error)
            continue
        _put(folded, name, nn.Identity())
        del left[name]
        found = True
        alone.add(part)
    reasons = "; ".join(f"{name} ({why})" for name, why in left.items())
    if not found:
        raise ValueError(f"nothing was folded: {reasons}")
    if left:
        warnings.warn(f"not folded: {reasons}", stacklevel=3)
    if parts := ", ".join(sorted(alone - {""})):
        warnings.warn(
            f"folded within {parts}, as if what torch.fx cannot trace around them called each as a whole: compare the "
            "network's outputs before and after",
            stacklevel=3,
        )
    return folded


def _copied(model: Any) -> Any:
    """A copy, also where a module holds a tensor that was computed, as those with a pruned weight do."""
    computed = [value for m in model.modules() for value in vars(m).values() if isinstance(value, Tensor)]
    return copy.deepcopy(model, {id(value): value.detach() for value in computed if value.requires_grad})


def _layers(model: nn.Module) -> Iterator[tuple[str, Normalization]]:
    return ((name, module) for name, module in model.named_modules() if isinstance(module, Normalization))


class _Tracer(fx.Tracer):
    """Goes into every module but layers, linear ones, those of torch, and those that turned out to be opaque."""

    def __init__(self, opaque: set[nn.Module]) -> None:
        super().__init__()
        self.opaque = opaque

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        ends = isinstance(m, (Normalization, *LINEAR)) or m in self.opaque
        return ends or super().is_leaf_module(m, module_qualified_name)


def _pairs(model: nn.Module) -> Iterator[tuple[str, str, str]]:
    """Names of the largest part that can be traced, and in it of a linear layer and the layer that alone takes its
    output, each of which is called once and has no other use."""
    opaque: set[nn.Module] = set()
    graphs: dict[str, fx.Graph] = {}
    for name, part in reversed(list(model.named_modules())):  # children first
        if not _Tracer(opaque).is_leaf_module(part, name):
            try:
                graphs[name] = _Tracer(opaque).trace(part)
            except Exception:  # whatever a network's own code makes of a proxy
                opaque.add(part)
    for name, graph in graphs.items():
        if not name or name.rpartition(".")[0] not in graphs:  # else it is part of that graph
            for before, layer in _pairs_in(model.get_submodule(name), graph):
                yield (name, f"{name}.{before}", f"{name}.{layer}") if name else (name, before, layer)


def _pairs_in(module: nn.Module, graph: fx.Graph) -> Iterator[tuple[str, str]]:
    calls = {node: module.get_submodule(str(node.target)) for node in graph.nodes if node.op == "call_module"}
    called = list(calls.values())
    named = [part for _, part in module.named_modules(remove_duplicate=False)]
    read = {str(node.target).rpartition(".")[0] for node in graph.nodes if node.op == "get_attr"}

    def alone(part: nn.Module, name: object) -> bool:
        return called.count(part) == 1 and named.count(part) == 1 and name not in read

    for node, layer in calls.items():
        before = node.args[0] if node.args else None
        linear = calls.get(before) if isinstance(before, fx.Node) else None
        if not isinstance(layer, Normalization) or not isinstance(linear, LINEAR) or not isinstance(before, fx.Node):
            continue
        if len(before.users) == 1 and alone(layer, node.target) and alone(linear, before.target):
            yield str(before.target), str(node.target)


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, module)


def _plain(linear: Any) -> Any:
    """A copy whose weight and bias are parameters, and nothing else."""
    plain = _copied(linear)
    for name in ("weight", "bias"):
        if f"{name}_orig" in plain._parameters and f"{name}_mask" in plain._buffers:
            prune.remove(plain, name)
    if parametrize.is_parametrized(linear):  # torch's own way back changes the class, which the original shares
        del plain._modules["parametrizations"]
        plain.__class__ = type(linear).__bases__[0]
        for name, computed in linear.parametrizations.items():
            learned = any(parameter.requires_grad for parameter in computed.parameters(recurse=False))
            plain._parameters[name] = nn.Parameter(getattr(linear, name).detach().clone(), learned)
    if plain._forward_pre_hooks or "weight" not in plain._parameters:
        raise TypeError(
            f"something computes the weight of this {type(linear).__name__} anew in each call (a forward pre-hook); "
            "make it permanent first, such as by torch.nn.utils.remove_weight_norm or remove_spectral_norm"
        )
    if type(plain) not in LINEAR:
        _check_subclass(plain)
    return plain


def _check_subclass(linear: Any) -> None:
    """A forward of its own may pad, but its output must be linear in its weight, channel by channel, plus its bias."""
    if any(type(linear).forward is kind.forward for kind in LINEAR):
        return
    with torch.no_grad():
        dims = linear.weight.dim() - 2
        inputs = linear.in_features if dims == 0 else linear.in_channels
        sizes = [2 * linear.weight.shape[2 + i] * _dilation(linear, i) + 3 for i in range(dims)]
        x = torch.randn(2, inputs, *sizes, dtype=linear.weight.dtype, device=linear.weight.device)
        rows = _rows(linear)
        scale = torch.linspace(-1.0, 2.0, len(rows), dtype=x.dtype, device=x.device)

        def output(weight: Tensor, bias: Tensor) -> Tensor:
            changed = copy.deepcopy(linear).eval()
            changed.weight.copy_(_from_rows(changed, weight))
            changed.bias = nn.Parameter(bias)
            result: Tensor = changed(x)
            return result

        def per_channel(values: Tensor, dims: int) -> Tensor:
            return values.view(-1, *[1] * dims)

        none = torch.zeros_like(scale)
        plain = output(rows, none)
        scaled = output(rows * per_channel(scale, rows.dim() - 1), scale)
        expected = plain * per_channel(scale, dims) + per_channel(scale, dims)
        shifted = output(torch.zeros_like(rows), scale) - per_channel(scale, dims)
        if not max((scaled - expected).abs().max(), shifted.abs().max()) <= 1e-3 * expected.abs().max():
            name = type(linear).__name__
            raise TypeError(f"the forward of {name} does more than to apply its weight and its bias")


def _dilation(linear: Any, i: int) -> int:
    return linear.dilation[i] if isinstance(linear.dilation, tuple) else linear.dilation


def _rows(linear: Any) -> Tensor:
    """The weight ``(channels, ...)``, a row for each output, group of the convolution by group."""
    weight: Tensor = linear.weight.detach()
    if not isinstance(linear, Transposed):
        return weight
    inputs, outputs = linear.in_channels // linear.groups, linear.out_channels // linear.groups
    grouped = weight.reshape(linear.groups, inputs, outputs, *weight.shape[2:])
    return grouped.transpose(1, 2).reshape(linear.out_channels, inputs, *weight.shape[2:])


def _from_rows(linear: Any, rows: Tensor) -> Tensor:
    """The way back."""
    if not isinstance(linear, Transposed):
        return rows
    inputs, outputs = linear.in_channels // linear.groups, linear.out_channels // linear.groups
    grouped = rows.reshape(linear.groups, outputs, inputs, *rows.shape[2:])
    return grouped.transpose(1, 2).reshape(linear.in_channels, outputs, *rows.shape[2:])


def _check_cut(linear: Any, first: int, d: int, groups: int, channels: int) -> None:
    """Groups of d channels from ``first`` on must each lie within one group of the convolution."""
    width = channels // getattr(linear, "groups", 1)
    for start in range(first, first + groups * d, d):
        if start // width != (start + d - 1) // width:
            raise ValueError(
                f"channels {start} to {start + d - 1} are whitened together but belong to several of the convolution's "
                f"{linear.groups} groups; choose a group_size that divides {width}"
            )
