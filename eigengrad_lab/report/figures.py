"""The figures: training curves (Figures 1 and 2) and error over settings (Figure 3)."""

import io
import math

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from PIL import Image

from eigengrad_lab.report.runs import METHODS, Run

__all__ = ["COLOURS", "Point", "as_png", "draw_curves", "draw_sweeps"]

# Okabe and Ito's colours, which people of every colour vision can tell apart.
COLOURS = {
    "svd": "#D55E00",
    "pi": "#E69F00",
    "ours": "#0072B2",
    "closed-form": "#009E73",
    "qr": "#CC79A7",
    "batchnorm": "#000000",
}

Point = tuple[float, float, float | None]
"""Setting, error in percent, standard deviation if there is one."""


def draw_curves(panels: dict[str, list[Run]]) -> bytes:
    """Training loss against epochs as PNG, one panel for each title, a cross where a run failed."""
    columns = min(3, max(1, len(panels)))
    rows = max(1, math.ceil(len(panels) / columns))
    figure = Figure(figsize=(4.2 * columns + (columns == 1), 3.2 * rows + 0.6), layout="constrained")
    axes: list[Axes] = list(figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat)
    for panel, (title, runs) in zip(axes, panels.items(), strict=False):
        for run in runs:
            _draw_run(panel, run)
        panel.set(title=title, xlabel="epoch", ylabel="training loss", yscale="log")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.grid(alpha=0.3)
        panel.label_outer()
    for panel in axes[len(panels) :]:
        panel.set_axis_off()
    shown = [
        method for method in METHODS if any(run.config.method == method for runs in panels.values() for run in runs)
    ]
    handles = [Line2D([], [], color=COLOURS[method], label=METHODS[method]) for method in shown]
    handles.append(Line2D([], [], color="grey", linestyle="none", marker="x", label="run failed"))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 4))
    return as_png(figure)


def _draw_run(panel: Axes, run: Run) -> None:
    colour = COLOURS[run.config.method]
    points = [(epoch.epoch, epoch.train_loss) for epoch in run.metrics if math.isfinite(epoch.train_loss)]
    if not points:
        return
    epochs, losses = zip(*points, strict=True)
    panel.plot(epochs, losses, color=colour, linewidth=1, alpha=0.8, marker="." if len(points) == 1 else None)
    if run.result is not None and not run.result.succeeded:
        panel.plot(epochs[-1:], losses[-1:], color=colour, marker="x", markersize=8, linestyle="none")


def draw_sweeps(panels: dict[str, tuple[list[Point], list[Point]]]) -> bytes:
    """Error over a setting as PNG: ours against the left axis, the paper's against the right one."""
    figure = Figure(figsize=(4.4 * max(1, len(panels)), 3.8), layout="constrained")
    axes: list[Axes] = list(figure.subplots(1, max(1, len(panels)), squeeze=False).flat)
    for panel, (title, (ours, printed)) in zip(axes, panels.items(), strict=False):
        settings = sorted({setting for setting, _, _ in (*ours, *printed)})
        place = {setting: index for index, setting in enumerate(settings)}  # as the paper draws them: evenly
        theirs = panel.twinx()
        for axis, points, colour, marker, shift in (
            (panel, ours, COLOURS["ours"], "o", -0.06),
            (theirs, printed, "grey", "s", 0.06),  # beside each other, so that no bar hides another
        ):
            axis.errorbar(
                [place[setting] + shift for setting, _, _ in points],
                [error for _, error, _ in points],
                [std or 0.0 for _, _, std in points],
                color=colour,
                marker=marker,
                markersize=4,
                linestyle="-" if marker == "o" else ":",
                capsize=3,
            )
        panel.set(xlabel=title, xticks=range(len(settings)), xticklabels=[f"{setting:g}" for setting in settings])
        panel.set_ylabel("error %, these runs", color=COLOURS["ours"])
        theirs.set_ylabel("error %, the paper's: CIFAR-10, ResNet-18", color="grey")
        panel.grid(alpha=0.3)
    return as_png(figure)


def as_png(figure: Figure) -> bytes:
    """A figure as the bytes of a file: of 256 colours, a quarter of the size.

    An octree keeps rare colours, which a median cut merges: a thin line with another one.
    """
    drawn, file = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=110)
    with Image.open(drawn) as image:
        image.convert("RGB").quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(
            file, format="png", optimize=True
        )
    return file.getvalue()
