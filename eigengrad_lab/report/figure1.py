"""Figure 1: training loss against epochs, one panel for each group size, a cross where a run failed."""

import io
import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from eigengrad_lab.config import RunConfig
from eigengrad_lab.records import EpochMetrics, Result
from eigengrad_lab.report.table1 import LABELS

__all__ = ["draw"]

# Okabe and Ito's colours, which people of every colour vision can tell apart.
COLOURS = {
    "svd": "#D55E00",
    "pi": "#E69F00",
    "ours": "#0072B2",
    "closed-form": "#009E73",
    "qr": "#CC79A7",
    "batchnorm": "#000000",
}

Curve = tuple[RunConfig, Result, list[EpochMetrics]]


def draw(curves: Sequence[Curve]) -> bytes:
    """The figure as PNG."""
    sizes = sorted({config.group_size for config, _, _ in curves if config.group_size is not None})
    methods = [method for method in LABELS if any(config.method == method for config, _, _ in curves)]
    columns = min(3, max(1, len(sizes)))
    rows = max(1, math.ceil(len(sizes) / columns))
    figure = Figure(figsize=(4.2 * columns, 3.2 * rows + 0.6), layout="constrained")
    panels: list[Axes] = list(figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat)
    for index, panel in enumerate(panels[: max(1, len(sizes))]):
        size = sizes[index] if sizes else None
        for curve in curves:
            if curve[0].group_size in (size, None):
                _draw_run(panel, curve)
        panel.set(title=f"d = {size}" if size else "no d", xlabel="epoch", ylabel="training loss", yscale="log")
        panel.grid(alpha=0.3)
        panel.label_outer()
    for panel in panels[max(1, len(sizes)) :]:
        panel.set_axis_off()
    handles = [Line2D([], [], color=COLOURS[method], label=LABELS[method]) for method in methods]
    handles.append(Line2D([], [], color="grey", linestyle="none", marker="x", label="run failed"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=130)
    return file.getvalue()


def _draw_run(panel: Axes, curve: Curve) -> None:
    config, result, metrics = curve
    colour = COLOURS[config.method]
    epochs, losses = [epoch.epoch for epoch in metrics], [epoch.train_loss for epoch in metrics]
    panel.plot(epochs, losses, color=colour, linewidth=1, alpha=0.8)
    if not result.succeeded and metrics and math.isfinite(losses[-1]):
        panel.plot(epochs[-1:], losses[-1:], color=colour, marker="x", markersize=8, linestyle="none")
