"""Running estimates anew, for weights that no training step has seen: averages of networks, and changed data."""

import importlib.util
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from eigengrad.nn.normalization import Normalization

__all__ = ["update_statistics"]

DELAY = 5.0
"""Seconds before a progress bar appears."""


@torch.no_grad()
def update_statistics(
    model: nn.Module,
    loader: Iterable[Any],
    device: torch.device | str | None = None,
    *,
    forward: Callable[[nn.Module, Any], Any] | None = None,
    progress: bool = True,
) -> None:
    """Estimate the running statistics of all layers of this package, and of batch normalisation, anew.

    ``torch.optim.swa_utils.update_bn``, which knows batch normalisation alone, for averaged weights (SWA, EMA) and for
    data that has changed: each running estimate becomes the average over the loader's batches. Training and evaluation
    modes are put back, and momenta, also after an error; estimates are then those of the batches before it.

    Args:
        model: changed in place. Runs in training mode, as it does while it learns.
        loader: batches, each a tensor, or a list or tuple that begins with one.
        device: where to move them.
        forward: called with the model and each batch, as it comes, for models that take something else.
        progress: show a bar if it takes longer than a few seconds, on a terminal and if ``tqdm`` is installed.

    Raises:
        ValueError: if the model has no running statistics, or the loader no batch.

    Example:
        >>> import torch, eigengrad as eg
        >>> averaged = torch.optim.swa_utils.AveragedModel(torch.nn.Sequential(eg.nn.ZCAWhitening(4)))
        >>> eg.nn.update_statistics(averaged, [torch.randn(32, 4) for _ in range(3)])
        >>> int(averaged.module[0].num_batches_tracked)
        3
    """
    layers = [m for m in model.modules() if isinstance(m, (Normalization, _BatchNorm)) and _is_tracking(m)]
    if not layers:
        raise ValueError("model has no layer with running statistics")
    modes = {module: module.training for module in model.modules()}
    momenta = {layer: layer.momentum for layer in layers}
    batches = 0
    try:
        model.train()
        for layer in layers:
            _forget(layer)
        for batch in _with_bar(loader) if progress else loader:
            batches += 1
            for layer in layers:  # the average of all batches, also where the layer does not count them
                layer.momentum = None if layer.num_batches_tracked is not None else 1.0 / batches
            if forward is not None:
                forward(model, batch)
                continue
            x = batch[0] if isinstance(batch, (list, tuple)) else batch
            model(x if device is None or not isinstance(x, Tensor) else x.to(device))
    finally:
        for layer, momentum in momenta.items():
            layer.momentum = momentum
        for module, mode in modes.items():
            module.training = mode
        for layer in layers:
            layer.train(layer.training)
    if batches == 0:
        raise ValueError(
            "loader has no batch, and the running statistics have been reset; pass a list, or a new iterator"
        )


def _is_tracking(layer: Normalization | _BatchNorm) -> bool:
    return layer.running_mean is not None and layer.track_running_stats


def _forget(layer: Normalization | _BatchNorm) -> None:
    """``reset_running_stats``, which torch's layer without a count does not survive."""
    count, layer.num_batches_tracked = layer.num_batches_tracked, torch.tensor(0)
    layer.reset_running_stats()
    layer.num_batches_tracked = None if count is None else count.zero_()


def _with_bar(loader: Iterable[Any]) -> Iterable[Any]:
    if importlib.util.find_spec("tqdm") is None:
        return loader
    from tqdm.auto import tqdm

    return tqdm(loader, desc="running statistics", unit="batch", delay=DELAY, disable=None, leave=False)
