"""The gallery runs, stays short, and ends as its pages say."""

import ast
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
matplotlib = pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")

Names = dict[str, Any]
ENDS: dict[str, Callable[[Names], bool]] = {
    "basics/rules_as_fields.py": lambda end: end["largest"]["Lorentzian(width=0.3)"] < end["largest"]["Exact()"],
    "basics/through_ties.py": lambda end: all(
        (len(losses) == end["STEPS"]) != name.startswith("torch") for name, (losses, *_) in end["histories"].items()
    ),
    "geometry/essential_matrix.py": lambda end: (
        median(end["angles"]["learned weights"]) < median(end["angles"]["equal weights"]) / 5
    ),
    "geometry/learned_correspondences.py": lambda end: end["angle"](end["fit"].rotation, end["R"]).median() < 2,
    "geometry/surface_normals.py": lambda end: (
        end["angles"]["learned trust"].mean() < 0.8 * end["angles"]["all neighbours alike"].mean()
    ),
    "networks/paper_in_one_file.py": lambda end: (
        "failed at step" in end["runs"].pop("exact")[1]
        and all(float(result.split("%")[0]) < 10 for _, result in end["runs"].values())
    ),
    "networks/second_order_pooling.py": lambda end: end["curves"]["covariance pooling"][-1] > 90,
    "networks/shampoo.py": lambda end: end["curves"]["Shampoo"][-1] < end["curves"]["Adam"][-1],
    "networks/spd_network.py": lambda end: end["curves"]["logarithm"][-1] > 90,
    "networks/whitening_a_network.py": lambda end: (
        end["off_diagonal"]["whitening"] < 0.1 * end["off_diagonal"]["batch normalisation"]
        and sum(end["errors"]["whitening"]) < sum(end["errors"]["batch normalisation"])
    ),
    "physics/control_pulse.py": lambda end: end["fidelities"][-1] > 0.999,
    "physics/density_matrix.py": lambda end: end["rings"][10][1][-1] < 1e-5 and end["rings"][12][1][-1] > 0.1,
    "physics/drum_in_tune.py": lambda end: end["losses"][-1] < 0.2 * end["losses"][0],
    "physics/ising.py": lambda end: all(
        abs(ours - exact) < 0.03 for ours, exact in zip(end["energies"]["eg.svd"], end["exact"], strict=True)
    ),
    "physics/repeated_stretches.py": lambda end: (
        end["moduli"]["eg.powm"].isfinite().all() and abs(end["rest"] - end["SHEAR"]) < 1e-9
    ),
    "statistics/bures_barycentres.py": lambda end: end["losses"][-1] < 1e-5,
    "statistics/deep_cca.py": lambda end: end["deep"] > end["linear"] + 0.2,
    "statistics/frechet_loss.py": lambda end: end["losses"][-1] < 0.1 * end["losses"][0],
    "statistics/graph_positions.py": lambda end: end["curve"][-1] > 2 * end["curve"][0],
    "statistics/spectral_clustering.py": lambda end: end["curve"][-1] < 0.1 * end["curve"][0],
    "vision/colour_transfer.py": lambda end: end["after"] < 0.2 * end["before"],
    "vision/low_rank_completion.py": lambda end: end["learned"] < end["best"],
    "vision/pca_denoising.py": lambda end: end["psnr"](end["learned"]) > end["psnr"](end["plain"]),
    "vision/robust_pca.py": lambda end: end["learned"] < 0.3 * end["by_pca"],
}


def median(angles: list[Any]) -> float:
    return sorted(angle.median().item() for angle in angles)[len(angles) // 2]


@pytest.mark.parametrize("name", ENDS)
def test_example(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = []
    monkeypatch.setattr(pyplot, "show", lambda: shown.append(pyplot.gcf().axes) or pyplot.close("all"))
    end = runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    assert shown and all(shown)
    assert ENDS[name](end)


def test_every_example_is_here_and_short() -> None:
    paths = {str(path.relative_to(EXAMPLES)): path.read_text() for path in EXAMPLES.glob("*/*.py")}
    assert set(paths) == set(ENDS)
    for name, source in paths.items():
        assert source.count("\n") < 120, name
        title, line = ast.get_docstring(ast.parse(source)).splitlines()[:2]
        assert line == "=" * len(title), name


def test_every_section_has_a_heading() -> None:
    assert all((path.parent / "GALLERY_HEADER.rst").exists() for path in EXAMPLES.glob("*/*.py"))
