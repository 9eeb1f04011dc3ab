"""A trained network for deployment: in evaluation mode, whitening folded into the convolution before it, as ONNX."""

from pathlib import Path

import torch
from torch import Tensor, nn

import eigengrad as eg
from eigengrad_lab.config import UsageError
from eigengrad_lab.models import build
from eigengrad_lab.runs.records import RunRecord, recorded_runs

__all__ = ["Deployed", "export", "folded"]


class Deployed(nn.Module):
    """From raw pixels ``(N, C, H, W)``, 0 to 255, to logits."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, x: Tensor) -> Tensor:
        """Standardise, and ask the network."""
        return self.network((x - self.mean) / self.std)


def export(root: Path, name: str, to: Path | None) -> str:
    """Write the network of the run whose identity is ``name``, or begins so, and say what was written.

    Raises:
        UsageError: if there is no such run, it kept no weights, or the packages for ONNX are missing.
    """
    record = _found(root, name)
    result, kept = record.result(), record.weights()
    if result is None:
        raise UsageError(f"{record.config.identity} has not ended; the command that began it goes on with it")
    if result.failed:
        raise UsageError(f"{record.config.identity} failed at step {result.failed_at_step}: {result.reason}")
    if kept is None:
        raise UsageError(f"{record.folder} has no weights.pt; train keeps them, reproduce with --weights")
    network = build(
        record.config,
        image_channels=kept["image"][0],
        classes=kept["classes"],
        generator=torch.Generator(),
    )
    network.load_state_dict(kept["network"])
    deployed = Deployed(folded(network.eval()), kept["mean"], kept["std"]).eval()
    path = to or Path(f"{record.config.identity}.onnx")
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UsageError("export needs the packages onnx and onnxscript: pip install onnx onnxscript") from error
    batch = torch.export.Dim("batch", min=1)
    program = torch.onnx.export(
        deployed,
        (torch.zeros(2, *kept["image"]),),
        input_names=["pixels"],
        output_names=["logits"],
        dynamic_shapes={"x": {0: batch}},
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    program.save(str(path))
    shape = " x ".join(map(str, kept["image"]))
    unsure = " (not trained long enough to tell)" if result.undecided else ""
    return f"{path}: {record.config.identity}{unsure}, from {shape} pixels of 0 to 255 to {kept['classes']} logits"


def folded(network: nn.Module) -> nn.Module:
    """Each layer of this library that follows a convolution or a linear layer in a ``Sequential`` goes into it."""
    for parent in list(network.modules()):
        if isinstance(parent, nn.Sequential):
            for index in range(1, len(parent)):
                layer, before = parent[index], parent[index - 1]
                if isinstance(layer, eg.nn.ZCAWhitening | eg.nn.PCADenoising) and isinstance(
                    before, nn.Conv2d | nn.Linear
                ):
                    parent[index - 1], parent[index] = eg.nn.fold(layer, before), nn.Identity()
    return network


def _found(root: Path, name: str) -> RunRecord:
    records = [record for record in recorded_runs(root)[0] if record.config.identity.startswith(name)]
    exact = [record for record in records if record.config.identity == name]
    if len(exact or records) != 1:
        names = ", ".join(record.config.identity for record in records[:5]) or "none"
        raise UsageError(f"no single run {name!r} in {root}: there are {names}; eigengrad status lists all")
    return (exact or records)[0]
