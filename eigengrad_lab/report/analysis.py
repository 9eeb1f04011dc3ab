"""The paper's analysis, measured: what power iteration leaves out, each rule's weights, and the gradient's bound.

Source: Wang et al., NeurIPS 2019, section 3.
"""

from collections.abc import Callable

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

import eigengrad as eg
from eigengrad_lab.report.claims import Claim
from eigengrad_lab.report.figures import as_png
from eigengrad_lab.report.grid import Grid, Row
from eigengrad_lab.report.sections import Section

__all__ = ["TEXT", "show"]

TEXT = (
    "Power iteration leaves out a share (l_i/l_1)^k of the exact gradient and bounds the rest by n T / eps "
    "(Wang et al. 2019, section 3). All figures here are computed, none is the paper's."
)
RULES: dict[str, tuple[eg.gradients.GradientRule, str]] = {
    "Exact": (eg.Exact(), "#D55E00"),
    "PowerIteration(19)": (eg.PowerIteration(19), "#0072B2"),
    "Taylor(9)": (eg.Taylor(9), "#56B4E9"),
    "Clipped(100)": (eg.Clipped(100.0), "#E69F00"),
    "Lorentzian(1e-2)": (eg.Lorentzian(1e-2), "#009E73"),
    "Masked(1e-2)": (eg.Masked(1e-2), "#CC79A7"),
}
"""With settings at which the thresholds of all lie within the picture."""
SIZE, EPS, MATRICES = 16, 1e-2, 2000


def show() -> Section:
    """Table, picture and claims."""
    measured = {T: measure_gradients(T) for T in (1, 4, 19, 100)}
    bounds = {T: eg.analysis.gradient_bound(SIZE, EPS, gradient=eg.PowerIteration(T)) for T in measured}
    rows = [
        Row(("share left out", f"ratio {ratio}, k = {k}", f"{eg.analysis.remainder(ratio, k):.2%}"))
        for ratio in (0.5, 0.85, 0.95)
        for k in (9, 19)
    ]
    rows += [
        Row(("iterations that leave out 5%", f"ratio {ratio}", str(eg.analysis.iterations_for(ratio, 0.05))))
        for ratio in (0.5, 0.85, 0.95, 0.99)
    ]
    for T, ratios in measured.items():
        text = f"T = {T}: largest of {MATRICES} spectra; bound n T / eps"
        rows.append(Row(("norm(gA) / norm(gV)", text, f"{ratios.max():.3g}; {bounds[T]:.3g}")))
    csv = "quantity,setting,value\n" + "".join(f'"{a}","{b}","{c}"\n' for a, b, c in (row.texts for row in rows))
    left = eg.analysis.remainder(0.85, 19)
    held = all(float(ratios.max()) <= bounds[T] for T, ratios in measured.items())
    return Section(
        "Analysis: what power iteration leaves out, and what it bounds",
        Grid(("quantity", "at", "value"), tuple(rows)),
        csv,
        [
            Claim(
                "19 iterations leave out 5% at a ratio of 0.85",
                "reproduced" if round(left, 2) == 0.05 else "differs",
                f"(0.85)^19 = {left:.4f}",
            ),
            Claim(
                "The gradient's norm is at most n T / eps",
                "reproduced" if held else "differs",
                "; ".join(f"T = {T}: {ratios.max():.3g} of {bounds[T]:.3g}" for T, ratios in measured.items()),
            ),
        ],
        draw(measured),
        "Four panels: the share left out as a surface over ratio and k up to 600; its contours at 0.01, 0.05 and 0.2 "
        "with the point (0.85, 19); the largest weight of each rule against the gap; measured gradient norms against "
        "the bound",
        [
            f"Gradients are measured on {MATRICES} random spectra of size {SIZE} with eigenvalues of {EPS:g} or more: "
            "spread, clustered, and exactly tied. The bound's factor n is not needed in the Frobenius norm."
        ],
    )


def measure_gradients(iterations: int) -> Tensor:
    """``norm(gA) / norm(gV)`` of ``eg.eigh``, for random matrices and cotangents, ``(MATRICES,)``."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64, generator=generator)

    spread = EPS ** torch.rand(MATRICES, SIZE, dtype=torch.float64, generator=generator)
    third = MATRICES // 3
    spread[third : 2 * third] = EPS * (1 + 1e-6 * spread[third : 2 * third])  # clustered at the least allowed value
    spread[2 * third :, : SIZE // 2] = EPS  # half of them tied
    Q = torch.linalg.qr(normal(MATRICES, SIZE, SIZE))[0]
    A = ((Q * spread.unsqueeze(-2)) @ Q.mT).requires_grad_()
    gV = normal(MATRICES, SIZE, SIZE)
    V = eg.eigh(A, gradient=eg.PowerIteration(iterations)).eigenvectors
    gA = torch.autograd.grad(V, A, gV)[0]
    return torch.linalg.matrix_norm(gA) / torch.linalg.matrix_norm(gV)


def draw(measured: dict[int, Tensor]) -> bytes:
    """The four panels."""
    figure = Figure(figsize=(11, 8.4), layout="constrained")
    _surface(figure.add_subplot(2, 2, 1, projection="3d"))
    _contours(figure.add_subplot(2, 2, 2))
    _weights(figure.add_subplot(2, 2, 3))
    _norms(figure.add_subplot(2, 2, 4), measured)
    return as_png(figure)


def _share() -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    return np.vectorize(lambda ratio, k: eg.analysis.remainder(float(ratio), int(k)))


def _surface(axes: Axes) -> None:
    ratio, k = np.meshgrid(np.linspace(0, 1, 60) ** 0.2, np.linspace(1, 600, 60).round())  # finer near 1
    share = _share()(ratio, k)
    axes.plot_surface(ratio, k, share, cmap="viridis", linewidth=0, rcount=60, ccount=60)  # type: ignore[attr-defined]
    axes.set(xlabel="$l_i / l_1$", ylabel="k", title="share left out, $(l_i / l_1)^k$")
    axes.view_init(25, -125)  # type: ignore[attr-defined]


def _contours(axes: Axes) -> None:
    ratio, k = np.meshgrid(np.linspace(0.3, 1, 300), np.arange(1, 26))
    lines = axes.contour(
        ratio, k, _share()(ratio, k), levels=[0.01, 0.05, 0.2], colors=["#0072B2", "#D55E00", "#009E73"]
    )
    axes.clabel(lines, fmt="%g")
    axes.plot(0.85, 19, "k*", markersize=10)
    axes.annotate("(0.85, 19)", (0.85, 19), textcoords="offset points", xytext=(8, 4))
    axes.set(xlabel="$l_i / l_1$", ylabel="k", title="contours of the share left out")
    axes.grid(alpha=0.3)


def _weights(axes: Axes) -> None:
    gaps = torch.logspace(-8, 0, 200, dtype=torch.float64)
    L = torch.stack([1 - gaps, torch.ones_like(gaps)], dim=-1)
    for name, (rule, colour) in RULES.items():
        largest = rule.kernel(L).abs().amax(dim=(-2, -1))
        axes.loglog(gaps, largest.clamp_min(1e-9), color=colour, label=name)
    axes.set(
        xlabel="gap $l_1 - l_2$, with $l_1 = 1$", ylabel="largest |K|", title="each rule's weight", ylim=(1e-3, 1e9)
    )
    axes.legend(fontsize="small")
    axes.grid(alpha=0.3)


def _norms(axes: Axes, measured: dict[int, Tensor]) -> None:
    for place, (T, ratios) in enumerate(measured.items()):
        noise = torch.linspace(-0.25, 0.25, len(ratios))
        axes.semilogy(place + noise, ratios, ".", markersize=2, color="#0072B2")
        bound = eg.analysis.gradient_bound(SIZE, EPS, gradient=eg.PowerIteration(T))
        axes.plot([place - 0.35, place + 0.35], [bound, bound], color="#D55E00")
    axes.set(xticks=range(len(measured)), xticklabels=[f"T = {T}" for T in measured])
    axes.set(ylabel="norm(gA) / norm(gV)", title="measured gradients (dots) and the bound n T / eps (lines)")
    axes.grid(alpha=0.3, axis="y")
