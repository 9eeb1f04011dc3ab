"""Into a network: batch normalisation becomes whitening or denoising."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize

from eigengrad.nn.denoising import PCADenoising
from eigengrad.nn.functional.channel_groups import blocks
from eigengrad.nn.normalization import Normalization
from eigengrad.nn.whitening import ZCAWhitening

__all__ = ["convert", "convert_sync"]

M = TypeVar("M", bound=nn.Module)
Rule = Callable[[Any, Normalization], nn.Module]

LAYERS: dict[str, type[Normalization]] = {"zca": ZCAWhitening, "pca": PCADenoising}
FORWARDS = (_BatchNorm.forward, nn.SyncBatchNorm.forward)
FAR_BELOW = 1e-4
"""Of what a relative eps adds, the least variance of which float32 keeps three digits."""
HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_is_full_backward_hook",
)


def convert(
    model: M,
    choose: Callable[[str, nn.Module], bool] = lambda name, layer: True,
    *,
    layer: str = "zca",
    group_size: int | None = None,
    rules: Mapping[type[nn.Module], Rule] | None = None,
    **options: Any,
) -> M:
    """Replace batch normalisation layers by :class:`eigengrad.nn.ZCAWhitening` or :class:`eigengrad.nn.PCADenoising`.

    Parameters (the same objects), momentum, eps, hooks and flags are kept, and the running variances become a diagonal
    running covariance: the model's evaluation output stays what it was, until it is trained (as long as a denoising
    layer keeps all its components). Where variances within a group of channels are so far apart that a share of their
    mean would drown the smallest, the layer has ``relative_eps=0.0``, and a warning says so. An ``nn.SyncBatchNorm``
    keeps its processes, by default ``"all"``.

    What is replaced are ``nn.BatchNorm1d``, ``2d``, ``3d``, ``nn.SyncBatchNorm``, and subclasses that leave ``forward``
    to them. A class with a forward of its own, such as a normalisation with its activation, is left alone, and named in
    a warning, unless a rule says what to do.

    Args:
        model: changed in place, unless it is a batch normalisation layer itself.
        choose: called with each layer's qualified name and the layer; which ones to replace. All by default.
        layer: ``"zca"`` or ``"pca"``.
        group_size: of whitening, d; in a layer with fewer channels, all of them.
        rules: for classes with a forward of their own: called with the old layer and the new one, and returns what
            takes the old one's place, ``{NormAct: lambda old, new: nn.Sequential(new, old.act)}``.
        options: further arguments of the layer, such as ``gradient``, ``eps`` or ``rank``.

    Returns:
        The model, or the layer that takes its place.

    Raises:
        ValueError: if no layer was chosen; for a lazy layer that has seen no input yet; for
            an unknown ``layer``.

    Example:
        >>> import torch, eigengrad as eg
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 64, 3), torch.nn.BatchNorm2d(64), torch.nn.ReLU())
        >>> eg.nn.convert(network, group_size=16)[1]
        ZCAWhitening(64, eps=1e-05, momentum=0.1, affine=True, bias=True, track_running_stats=True, group_size=16)
    """
    if layer not in LAYERS:
        raise ValueError(f"layer must be one of {tuple(LAYERS)}, got {layer!r}")
    if layer == "pca" and group_size is not None:
        raise ValueError(f"group_size={group_size} is a setting of whitening; for layer='pca' give rank or energy")
    chosen = [(name, m) for name, m in model.named_modules() if isinstance(m, _BatchNorm) and choose(name, m)]
    if not chosen:
        raise ValueError("no batch normalisation layer was chosen; choose is called with each one's name and the layer")

    def replacement(name: str, old: _BatchNorm) -> nn.Module | None:
        rule = next(
            (rule for kind in type(old).__mro__ for given, rule in (rules or {}).items() if kind is given), None
        )
        if rule is None and not _understood(old):
            return None
        sizes = {} if layer == "pca" else {"group_size": group_size}
        new = _successor(name, old, LAYERS[layer], sizes | options)
        return new if rule is None else rule(old, new).train(old.training)

    replacements: dict[nn.Module, nn.Module] = {}
    left = []
    for name, old in chosen:
        new = replacement(name, old)
        if new is None:
            left.append(f"{name or 'the model'} ({type(old).__name__})")
        else:
            replacements[old] = new
    if left:
        warnings.warn(
            f"not converted: {', '.join(left)}. A class with a forward of its own, or a parametrised weight, is not "
            "batch normalisation alone; pass rules={Class: lambda old, new: ...} to say what takes its place",
            stacklevel=2,
        )
    if model in replacements:
        return cast("M", replacements[model])
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):  # named_children names a shared layer only once
            if child in replacements:
                setattr(parent, name, replacements[child])
    return model


def convert_sync(model: M) -> M:
    """Let every layer of this package in ``model`` share its moments with all processes, as ``process_group="all"``.

    What ``nn.SyncBatchNorm.convert_sync_batchnorm`` does for batch normalisation, which it leaves alone. Layers with a
    group of their own keep it.

    Args:
        model: changed in place.

    Returns:
        The model.

    Example:
        >>> import eigengrad as eg
        >>> eg.nn.convert_sync(eg.nn.ZCAWhitening(8)).process_group
        'all'
    """
    for module in model.modules():
        if isinstance(module, Normalization) and module.process_group is None:
            module.process_group = "all"
    return model


def _understood(layer: _BatchNorm) -> bool:
    """Whether it does what batch normalisation does, with parameters of its own."""
    own = "forward" in vars(layer) or parametrize.is_parametrized(layer)
    plain = all(name in layer._parameters for name in ("weight", "bias"))
    return type(layer).forward in FORWARDS and plain and not own


def _successor(name: str, old: _BatchNorm, kind: type[Normalization], options: dict[str, Any]) -> Normalization:
    """The layer that takes a batch normalisation layer's place."""
    if isinstance(old.weight, nn.UninitializedParameter) or old.num_features == 0:
        raise ValueError(f"{name or 'model'} is lazy and has seen no input yet; run the model once, then convert")
    if options.get("group_size") is not None:
        options = options | {"group_size": min(options["group_size"], old.num_features)}
    if isinstance(old, nn.SyncBatchNorm):
        options = {"process_group": old.process_group or "all"} | options
    template = next((t for t in (old.weight, old.running_mean) if t is not None), None)
    settings: dict[str, Any] = {
        "eps": old.eps,
        "momentum": old.momentum,
        "affine": old.affine,
        "track_running_stats": old.running_mean is not None,
        "device": None if template is None else template.device,
        "dtype": None if template is None else template.dtype,
    }
    settings |= options
    affine = settings.pop("affine")
    new = kind(old.num_features, affine=False, **settings)
    new.affine = affine
    learned = ("weight", "bias") if settings.get("bias", True) else ("weight",)
    for parameter in learned if affine else ():
        setattr(new, parameter, getattr(old, parameter))
    for hooks in HOOKS:
        setattr(new, hooks, getattr(old, hooks))
    if old.running_mean is not None and new.running_mean is not None:
        assert old.running_var is not None and new.running_covariance is not None
        with torch.no_grad():
            new.running_mean.copy_(old.running_mean)
            new.running_covariance.mul_(_as_covariance(name, old.running_var, new).unsqueeze(-1))
            if old.num_batches_tracked is None:
                new.num_batches_tracked = None
            elif new.num_batches_tracked is not None:
                new.num_batches_tracked.copy_(old.num_batches_tracked)
        new.track_running_stats = old.track_running_stats
    return new.train(old.training)


def _as_covariance(name: str, variance: Tensor, layer: Normalization) -> Tensor:
    """The diagonal ``(C,)`` that gives each channel ``variance`` once a relative eps has been added.

    Negative where a channel's variance is less than that share of its group's mean: it is the floor that is subtracted.
    What is left of a variance far below is rounding, so such a layer goes without a relative eps.
    """
    if not isinstance(layer, ZCAWhitening) or layer.relative_eps in (0.0, 1.0):
        return variance
    wide = variance.double() if variance.device.type != "mps" else variance.float()
    groups = (wide[block].view(-1, size) for block, size in blocks(layer.num_features, layer.group_size))
    mean = torch.cat([group.mean(dim=1, keepdim=True).expand_as(group).flatten() for group in groups])
    # Channels that vary by less than eps say nothing, whatever they are divided by.
    drowned = (wide > layer.eps) & (wide + layer.eps < FAR_BELOW * layer.relative_eps * mean)
    if drowned.any():
        ratio = float((mean / wide)[drowned].max())
        warnings.warn(
            f"{name or 'the layer'}: running variances of channels that are whitened together lie up to {ratio:.0e} "
            f"times below their mean, too far for relative_eps={layer.relative_eps}; converted with relative_eps=0.0, "
            "which keeps the output. Smaller groups, or inputs of one scale, keep both",
            stacklevel=5,
        )
        layer.relative_eps = 0.0
        return variance
    return (wide - layer.relative_eps * mean) / (1.0 - layer.relative_eps)
