"""The figures: curves of trainings (Figures 1 and 2) and error over settings (Figure 3).

Each panel is a picture of its own, light and dark, so that a page can lay them out for any screen; the same panels
beside each other are the figure of a Markdown file.
"""

import io
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogFormatter, MaxNLocator
from PIL import Image

from eigengrad_lab.methods import colour, in_order, label
from eigengrad_lab.report.runs import Run
from eigengrad_lab.training import EpochMetrics

__all__ = ["DARK", "LIGHT", "QUANTITIES", "Point", "Quantity", "Theme", "as_png", "curve_panel", "draw_curves",
           "draw_sweeps", "styled", "sweep_panel"]  # fmt: skip

Point = tuple[float, float, float | None]
"""Setting, error in percent, standard deviation if there is one."""


@dataclass(frozen=True)
class Theme:
    """Colours of paper and ink."""

    paper: str
    ink: str


LIGHT, DARK = Theme("white", "black"), Theme("#16181d", "#d5d8de")


@dataclass(frozen=True)
class Quantity:
    """What curves show."""

    name: str
    of: Callable[[EpochMetrics], float]
    logarithmic: bool = True


QUANTITIES = (
    Quantity("training loss", lambda epoch: epoch.train_loss),
    Quantity("test error %", lambda epoch: epoch.test_error_pct, logarithmic=False),
    Quantity("largest gradient norm", lambda epoch: epoch.largest_gradient_norm),
)


def draw_curves(panels: dict[str, list[Run]]) -> bytes:
    """Training loss against epochs as PNG, one panel for each title."""
    columns = min(3, max(1, len(panels)))
    rows = max(1, math.ceil(len(panels) / columns))
    figure = Figure(figsize=(4.2 * columns + (columns == 1), 3.2 * rows + 0.6), layout="constrained")
    axes: list[Axes] = list(figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat)
    for panel, (title, runs) in zip(axes, panels.items(), strict=False):
        _draw(panel, title, runs, QUANTITIES[0])
        panel.label_outer()
    for panel in axes[len(panels) :]:
        panel.set_axis_off()
    shown = in_order(run.config.method for runs in panels.values() for run in runs)
    handles = [Line2D([], [], color=colour(method), label=label(method)) for method in shown]
    handles.append(Line2D([], [], color="grey", linestyle="none", marker="x", label="a run failed"))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 4))
    return as_png(figure)


def curve_panel(title: str, runs: Sequence[Run], quantity: Quantity, theme: Theme) -> bytes:
    """One panel as PNG."""
    figure = Figure(figsize=(4.2, 3.0), layout="constrained")
    axes: Axes = figure.subplots()
    _draw(axes, title, runs, quantity)
    return as_png(styled(figure, theme), dpi=150)


def _draw(axes: Axes, title: str, runs: Sequence[Run], quantity: Quantity) -> None:
    """A method's mean over its runs, a band from the least to the largest, and a cross at the top for each that
    failed."""
    height = 0.97
    for method in in_order(run.config.method for run in runs):
        of_method = [run for run in runs if run.config.method == method]
        _draw_mean(axes, of_method, quantity, colour(method))
        if any(run.failed for run in of_method):
            _mark_failures(axes, of_method, height, colour(method))
            height -= 0.055
    axes.set(title=title, xlabel="epoch", ylabel=quantity.name)
    if quantity.logarithmic:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(LogFormatter(labelOnlyBase=False, minor_thresholds=(1, 0.4)))
    if runs:
        axes.set_xlim(0.5, max(run.config.epochs for run in runs) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)


def _draw_mean(axes: Axes, runs: Sequence[Run], quantity: Quantity, shade: str) -> None:
    values: dict[int, list[float]] = {}
    for run in runs:
        for epoch in run.metrics:
            if math.isfinite(value := quantity.of(epoch)):
                values.setdefault(epoch.epoch, []).append(value)
    if not values:
        return
    epochs = sorted(values)
    means = [statistics.fmean(values[epoch]) for epoch in epochs]
    axes.plot(epochs, means, color=shade, linewidth=1.4, marker="." if len(epochs) == 1 else None)
    if any(len(v) > 1 for v in values.values()):
        low, high = ([pick(values[epoch]) for epoch in epochs] for pick in (min, max))
        axes.fill_between(epochs, low, high, color=shade, alpha=0.15, linewidth=0)


def _mark_failures(axes: Axes, runs: Sequence[Run], height: float, shade: str) -> None:
    """In the epoch where each failed; those of one epoch beside each other. A run that fails in its first step is
    there."""
    seen: dict[int, int] = {}
    for run in runs:
        if run.failed:
            epoch = max(1, len(run.metrics))
            shift = 0.04 * run.config.epochs * seen.get(epoch, 0)
            seen[epoch] = seen.get(epoch, 0) + 1
            axes.plot(
                [epoch + shift], [height], marker="x", markersize=6, color=shade, linestyle="none",
                transform=axes.get_xaxis_transform(), clip_on=False,
            )  # fmt: skip


def draw_sweeps(panels: dict[str, tuple[list[Point], list[Point]]]) -> bytes:
    """Error over each setting as PNG: these runs above, the paper's below."""
    figure = Figure(figsize=(4.4 * max(1, len(panels)), 5.0), layout="constrained")
    axes = figure.subplots(2, max(1, len(panels)), squeeze=False)
    for column, (title, (ours, printed)) in enumerate(panels.items()):
        _draw_sweep(axes[0][column], axes[1][column], title, ours, printed)
    return as_png(figure)


def sweep_panel(title: str, ours: list[Point], printed: list[Point], theme: Theme) -> bytes:
    """One setting as PNG."""
    figure = Figure(figsize=(4.2, 4.6), layout="constrained")
    above, below = figure.subplots(2, 1)
    _draw_sweep(above, below, title, ours, printed)
    return as_png(styled(figure, theme), dpi=150)


def _draw_sweep(above: Axes, below: Axes, title: str, ours: list[Point], printed: list[Point]) -> None:
    """Two axes with scales of their own: one over the other would suggest that they agree."""
    settings = sorted({setting for setting, _, _ in (*ours, *printed)})
    place = {setting: index for index, setting in enumerate(settings)}  # as the paper draws them: evenly
    for axes, points, shade, marker, whose in (
        (above, ours, colour("ours"), "o", "these runs"),
        (below, printed, "grey", "s", "the paper: CIFAR-10, ResNet-18"),
    ):
        axes.errorbar(
            [place[setting] for setting, _, _ in points],
            [error for _, error, _ in points],
            [std or 0.0 for _, _, std in points],
            color=shade, marker=marker, markersize=4, linestyle="-" if marker == "o" else ":", capsize=3,
        )  # fmt: skip
        axes.set(xticks=range(len(settings)), xticklabels=[f"{setting:g}" for setting in settings])
        axes.set(ylabel="error %", xlim=(-0.4, len(settings) - 0.6))
        axes.set_title(whose, fontsize="medium")
        axes.grid(alpha=0.3)
    below.set_xlabel(title)


def styled(figure: Figure, theme: Theme) -> Figure:
    """In the theme's colours."""
    figure.set_facecolor(theme.paper)
    for axes in figure.axes:
        axes.set_facecolor(theme.paper)
        axes.tick_params(colors=theme.ink, which="both")
        for text in (axes.title, axes.xaxis.label, axes.yaxis.label):
            text.set_color(theme.ink)
        for spine in axes.spines.values():
            spine.set_color(theme.ink)
    return figure


def as_png(figure: Figure, dpi: int = 110) -> bytes:
    """A figure as the bytes of a file: of 256 colours, a quarter of the size.

    An octree keeps rare colours, which a median cut merges: a thin line with another one.
    """
    drawn, file = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=dpi)
    with Image.open(drawn) as image:
        image.convert("RGB").quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(
            file, format="png", optimize=True
        )
    return file.getvalue()
