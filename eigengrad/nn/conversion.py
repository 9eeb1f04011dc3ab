"""Into a network and out again: batch normalisation becomes whitening, and whitening part of a convolution."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from eigengrad.nn.normalization import Normalization
from eigengrad.nn.whitening import ZCAWhitening

__all__ = ["convert", "fold"]

Linear = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d


def convert(
    model: nn.Module,
    choose: Callable[[str, nn.Module], bool] = lambda name, layer: True,
    *,
    group_size: int | None = None,
    **options: Any,
) -> nn.Module:
    """Replace batch normalisation layers by :class:`eigengrad.nn.ZCAWhitening`.

    Scale, offset, momentum and eps are kept, and the running variances become a diagonal running whitening matrix: the
    model's evaluation output stays what it was, until it is trained. An ``nn.SyncBatchNorm`` keeps its processes.

    Args:
        model: changed in place, unless it is a batch normalisation layer itself.
        choose: called with each layer's qualified name and the layer; which ones to replace. All by default.
        group_size: d; in a layer with fewer channels, all of them.
        options: further arguments of :class:`eigengrad.nn.ZCAWhitening`, such as ``gradient`` or ``eps``.

    Returns:
        The model, or the whitening layer that takes its place.

    Raises:
        ValueError: if no layer was chosen; for a lazy layer that has seen no input yet.

    Example:
        >>> import torch, eigengrad as eg
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 64, 3), torch.nn.BatchNorm2d(64), torch.nn.ReLU())
        >>> eg.nn.convert(network, group_size=16)[1]
        ZCAWhitening(64, eps=1e-05, momentum=0.1, affine=True, bias=True, track_running_stats=True, group_size=16)
    """
    chosen = [(name, m) for name, m in model.named_modules() if isinstance(m, _BatchNorm) and choose(name, m)]
    if not chosen:
        raise ValueError("no batch normalisation layer was chosen; choose is called with each one's name and the layer")
    replacements = {layer: _whitening(name, layer, group_size, options) for name, layer in chosen}
    if isinstance(model, _BatchNorm):
        return replacements[model]
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):  # named_children names a shared layer only once
            if isinstance(child, _BatchNorm) and child in replacements:
                setattr(parent, name, replacements[child])
    return model


def fold(layer: Normalization, linear: Linear) -> Linear:
    """The convolution, or linear layer, that does what ``linear`` and then ``layer`` do in evaluation.

    Evaluation is an affine map of each group of channels, and so is part of the affine map before it: the network
    becomes one layer shorter, and exports to any format that knows convolutions.

    Args:
        layer: whitening or denoising, with running estimates.
        linear: what comes directly before; neither is changed.

    Returns:
        A copy of ``linear`` with other weights, and with a bias.

    Raises:
        TypeError: for other layers.
        ValueError: if the layer has no running estimates or another number of channels, or if a convolution's groups
            cut through a group of channels, which then depends on more inputs than one of them has.

    Example:
        >>> import torch, eigengrad as eg
        >>> convolution, layer = torch.nn.Conv2d(3, 8, 3), eg.nn.ZCAWhitening(8).eval()
        >>> x = torch.randn(1, 3, 5, 5)
        >>> torch.allclose(eg.nn.fold(layer, convolution)(x), layer(convolution(x)), atol=1e-5)
        True
    """
    if not isinstance(layer, Normalization):
        raise TypeError(f"layer must be a layer of eigengrad.nn, got {type(layer).__name__}")
    if type(linear) not in (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d):
        raise TypeError(f"linear must be a Linear, Conv1d, Conv2d or Conv3d, got {type(linear).__name__}")
    channels = linear.weight.shape[0]
    if channels != layer.num_features:
        raise ValueError(f"linear has {channels} outputs, but layer has {layer.num_features} channels")
    if layer.num_batches_tracked is None:
        raise ValueError("layer has no running estimates (track_running_stats=False), so evaluation is no fixed map")

    exact = torch.float64  # folding is done once: its rounding should not add to the network's
    weight = linear.weight.detach().to(exact)
    bias = weight.new_zeros(channels) if linear.bias is None else linear.bias.detach().to(exact)
    weights, biases = [], []
    with torch.no_grad():
        for block, mean, T, offset in layer.evaluation_maps():
            groups, d, _ = T.shape
            _check_cut(linear, block.start, d, groups)
            T = T.to(exact)
            weights.append((T @ weight[block].reshape(groups, d, -1)).reshape(weight[block].shape))
            biases.append((T @ (bias[block].view(groups, d, 1) - mean.to(exact)) + offset.to(exact)).flatten())
    folded = copy.deepcopy(linear)
    folded.weight = nn.Parameter(torch.cat(weights).to(linear.weight.dtype), linear.weight.requires_grad)
    folded.bias = nn.Parameter(torch.cat(biases).to(linear.weight.dtype), linear.weight.requires_grad)
    return folded


def _whitening(name: str, layer: _BatchNorm, group_size: int | None, options: dict[str, Any]) -> ZCAWhitening:
    """The whitening layer that takes a batch normalisation layer's place."""
    if isinstance(layer.weight, nn.UninitializedParameter) or layer.num_features == 0:
        raise ValueError(f"{name or 'model'} is lazy and has seen no input yet; run the model once, then convert")
    template = next((t for t in (layer.weight, layer.running_mean) if t is not None), None)
    if isinstance(layer, nn.SyncBatchNorm):
        options = {"process_group": layer.process_group or torch.distributed.group.WORLD} | options
    settings: dict[str, Any] = {
        "eps": layer.eps,
        "momentum": layer.momentum,
        "affine": layer.affine,
        "bias": layer.bias is not None,
        "track_running_stats": layer.track_running_stats,
        "device": None if template is None else template.device,
        "dtype": None if template is None else template.dtype,
        "group_size": None if group_size is None else min(group_size, layer.num_features),
    }
    whitening = ZCAWhitening(layer.num_features, **(settings | options))
    whitening.train(layer.training)
    with torch.no_grad():
        for parameter in ("weight", "bias"):
            old, new = getattr(layer, parameter), getattr(whitening, parameter)
            if old is not None and new is not None:
                new.copy_(old).requires_grad_(old.requires_grad)
        if layer.running_mean is not None and whitening.running_mean is not None:
            assert layer.running_var is not None and layer.num_batches_tracked is not None
            assert whitening.running_whitening is not None and whitening.num_batches_tracked is not None
            whitening.running_mean.copy_(layer.running_mean)
            whitening.running_whitening.mul_((layer.running_var + layer.eps).rsqrt().unsqueeze(-1))
            whitening.num_batches_tracked.copy_(layer.num_batches_tracked)
    return whitening


def _check_cut(linear: Linear, first: int, d: int, groups: int) -> None:
    """Groups of d channels from ``first`` on must each lie within one group of the convolution."""
    width = linear.weight.shape[0] // getattr(linear, "groups", 1)
    for start in range(first, first + groups * d, d):
        if start // width != (start + d - 1) // width:
            raise ValueError(
                f"channels {start} to {start + d - 1} are whitened together but belong to several of the convolution's "
                f"{linear.groups} groups; choose a group_size that divides {width}"
            )
