"""What a person sees of records: tables, figures, claims, files, and the page in a real browser."""

import csv
import dataclasses
import io
import json
import math
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eigengrad_lab import methods, paper, recipes
from eigengrad_lab.config import RunConfig
from eigengrad_lab.report import analysis, claims, figures, grid, sections, statistics
from eigengrad_lab.report.grid import Cell
from eigengrad_lab.report.runs import Run, setting_name
from eigengrad_lab.report.write import rebuild, write_analysis, write_report
from eigengrad_lab.runs.environment import commit
from eigengrad_lab.runs.records import RunRecord
from eigengrad_lab.training import EpochMetrics, Result

BASE = RunConfig(data="digits", model="small", method="ours", group_size=8, seed=0, epochs=2)
QUANTITY = figures.QUANTITIES[0]
GOOD, FAILED = Result(True, 2.5, seconds=1.0), Result(False, None, 3, "gradient is not finite", 1.0)


def metrics(*losses: float) -> list[EpochMetrics]:
    return [EpochMetrics(epoch, 3 * epoch, loss, 2.5, 0.1, 1.0, 1.0) for epoch, loss in enumerate(losses, 1)]


def record(root: Path, config: RunConfig, result: Result | None) -> None:
    kept = RunRecord(root, config)
    kept.open("eigengrad reproduce table1 <&>")
    kept.write_metrics(metrics(1.5, 1.2))
    if result is not None:
        kept.write_result(result)


def test_the_papers_figures() -> None:
    table1, table2, figure3 = paper.table1(), paper.table2(), paper.figure3()
    assert len(table1) == 16
    assert table1["ours", "d = 64"] == paper.PaperCell(4.44, 4.59, 0.09, 100.0)
    assert table1["svd", "d = 8"] == paper.PaperCell(None, None, None, 0.0)
    assert table1["batchnorm", "no d"].mean == 4.81
    assert table2["svd", "rank 16"] == paper.PaperCell()
    assert table2["pi", "rank 16"].least == 5.05
    assert [len(points) for points in figure3.values()] == [6, 5, 7]
    assert figure3["power_iterations"][-1] == (29.0, 4.61, 0.03)


def test_cells() -> None:
    errors = [3.0, None, 5.0]
    runs = [
        Run(dataclasses.replace(BASE, seed=seed), Result(e is not None, e, None if e else 4, "NaN"), metrics(1.5), {})
        for seed, e in enumerate(errors)
    ]
    runs.append(Run(BASE, Result(False, None, 4, "not trained long enough", undecided=True), [], {}))
    cell = grid.aggregate([*runs, Run(BASE, None, [], {})], lambda run: "d = 8")["ours", "d = 8"]
    assert (cell.planned, cell.runs, cell.errors, cell.least, cell.mean) == (5, 3, (3.0, 5.0), 3.0, 4.0)
    assert (cell.by_seed, cell.undecided, cell.seconds) == ({0: 3.0, 2: 5.0}, 1, 1.0)
    assert cell.interval == pytest.approx((20.77, 93.85), abs=0.01)
    assert cell.std == pytest.approx(2**0.5)
    assert cell.success_pct == pytest.approx(200 / 3)
    nothing = Cell(2, 2)
    assert (nothing.success_pct, nothing.least, nothing.mean, nothing.std) == (0.0, None, None, None)
    texts = grid.lay_out({("ours", "d = 8"): cell}, paper.table1()).rows
    assert texts[0].texts == ("ours", "success rate", "66.7% of 3, 1 undecided, 1 missing")
    assert texts[1].texts == ("", "  95% interval", "21 to 94")
    assert texts[2].texts == ("", "  paper", "100%")
    assert texts[5].texts == ("", "mean error %", "4.00 ± 1.41")


def test_files_and_page(tmp_path: Path) -> None:
    """A run that succeeded, one that failed, one that is missing; a folder that is no record; nothing loaded."""
    configs = [BASE, dataclasses.replace(BASE, method="svd"), dataclasses.replace(BASE, seed=1)]
    for config, result in zip(configs, (GOOD, FAILED, None), strict=True):
        if result is not None:
            record(tmp_path / "trainings", config, result)
    (tmp_path / "trainings" / "notes").mkdir()
    write_report("table1", configs, tmp_path)
    folder = tmp_path / "reports" / setting_name(BASE)
    names = [f"{name}.{kind}" for name in ("figure1", "table1") for kind in ("csv", "md", "png")]
    names.remove("table1.png")
    assert sorted(path.name for path in folder.iterdir()) == sorted([*names, "report.html"])

    rows = {row["method"]: row for row in csv.DictReader((folder / "table1.csv").read_text().splitlines())}
    assert (rows["ours"]["planned"], rows["ours"]["runs"], rows["ours"]["mean_error_pct"]) == ("2", "1", "2.5")
    assert rows["ours"]["paper_mean_error_pct"] == "4.62"
    assert (rows["svd"]["success_rate_pct"], rows["svd"]["mean_error_pct"]) == ("0.0", "")
    markdown = (folder / "table1.md").read_text()
    assert "| ours | success rate | 100% of 1, 1 missing |" in markdown
    assert "Of 3 runs 1 have no result yet" in markdown
    assert "Made with\n`eigengrad reproduce table1 <&>`" in markdown
    page = (folder / "report.html").read_text()
    assert "failed at step 3: gradient is not finite" in page
    assert "&lt;&amp;&gt;" in page
    assert f'href="../../trainings/{BASE.identity}/"' in page
    assert 'href="table1.csv"' in page
    assert f">{commit() or ''}</td>" in page
    assert page.count("prefers-color-scheme: dark") > 3
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")

    shown = [str(getattr(item, "plain", "")) for item in rebuild(tmp_path)]
    assert "notes: no readable config.json" in shown[0]
    assert "missing" not in (folder / "table1.md").read_text()  # of what was never begun, records know nothing


def test_every_experiment_has_a_layout() -> None:
    assert list(sections.LAYOUTS) == list(recipes.EXPERIMENTS)


def test_what_is_no_part_of_one_table_has_a_folder_of_its_own() -> None:
    """Another test set, schedule or recipe is another setting; another seed or method is not."""
    base = dataclasses.replace(BASE, epochs=7, milestones=recipes.milestones(7))
    assert setting_name(base) == "digits-small-7epochs"
    assert setting_name(dataclasses.replace(base, seed=1, method="pi", iterations=4)) == setting_name(base)
    changes = [{"test_images": 100}, {"train_images": 100}, {"milestones": (1,)}, {"eps": 1e-3}, {"batch_size": 64}]
    assert len({setting_name(dataclasses.replace(base, **change)) for change in [{}, *changes]}) == len(changes) + 1


def test_figure3_takes_more_than_table2s_point(tmp_path: Path) -> None:
    denoising = dataclasses.replace(BASE, layer="pca", group_size=None, rank=16)
    record(tmp_path / "trainings", denoising, GOOD)
    list(rebuild(tmp_path))
    folder = tmp_path / "reports" / setting_name(BASE)
    assert (folder / "table2.md").exists()
    assert not (folder / "figure3.md").exists()
    record(tmp_path / "trainings", dataclasses.replace(denoising, iterations=4), GOOD)
    list(rebuild(tmp_path))
    rows = list(csv.DictReader((folder / "figure3.csv").read_text().splitlines()))
    assert [row["setting"] for row in rows if row["panel"] == "power_iterations"] == ["4", "19"]


def cells(**errors: list[float]) -> dict[tuple[str, str], Cell]:
    """Two runs a cell; of ``svd_8=[]`` none succeeded."""
    return {
        (name.split("_")[0], f"d = {name.split('_')[1]}"): Cell(2, 2, dict(enumerate(values)))
        for name, values in errors.items()
    }


def test_claims_of_whitening() -> None:
    """Every verdict occurs."""
    everything = cells(ours_8=[2.0, 2.2], ours_64=[2.1, 2.3], svd_8=[], svd_64=[], pi_32=[3.0], pi_64=[])
    verdicts = [claim.verdict for claim in claims.of_whitening(everything)]
    assert verdicts == ["reproduced", "reproduced", "in part", "reproduced", "not shown"]
    everything = cells(ours_8=[2.0, 2.2], ours_64=[], svd_8=[2.0, 3.0]) | {
        ("batchnorm", "no d"): Cell(2, 2, {0: 1.0, 1: 1.1})
    }
    verdicts = [claim.verdict for claim in claims.of_whitening(everything)]
    assert verdicts == ["in part", "differs", "not shown", "not shown", "differs"]
    alone = {("ours", "d = 8"): Cell(1, 1, {0: 2.0}), ("svd", "d = 8"): Cell(1, 1, {0: 2.0})}
    rates = claims.of_whitening(alone)[:2]
    assert [claim.verdict for claim in rates] == ["not shown", "not shown"]
    assert rates[0].evidence.startswith("a rate takes 2 seeds: success: d = 8: 1 of 1")
    far = claims.of_whitening(cells(ours_8=[2.0, 2.1], ours_64=[9.0, 9.1]))
    assert far[3].verdict == "differs"
    assert "d = 64: 9.05% ± 0.07 (n = 2)" in far[3].evidence


def test_claims_of_denoising() -> None:
    def row(**errors: tuple[float, ...]) -> list[str]:
        made = {(name, "rank 16"): Cell(2, 2, dict(enumerate(values))) for name, values in errors.items()}
        return [claim.verdict for claim in claims.of_denoising(made)]

    clear = row(svd=(), pi=(5.0, 5.2, 5.1), ours=(4.0, 4.2, 4.0), batchnorm=(4.0, 4.3, 4.2))
    assert clear == ["reproduced", "reproduced", "not shown"]
    against = row(svd=(1.0, 2.0), pi=(3.0, 3.2, 3.0), ours=(4.0, 4.1, 4.1))
    assert against == ["differs", "differs", "not shown"]
    assert row(ours=(4.0,), batchnorm=(9.0,)) == ["not shown"] * 3  # one run tells nothing of noise


def test_claims_of_curves() -> None:
    def panel(pi: tuple[float, ...], ours: tuple[float, ...]) -> list[Run]:
        power = dataclasses.replace(BASE, method="pi")
        return [Run(power, GOOD, metrics(*pi), {}), Run(BASE, GOOD, metrics(*ours), {})]

    smooth, jumps = (2.0, 1.0, 0.01, 0.02), (2.0, 1.0, 1.15)
    dead = [Run(dataclasses.replace(BASE, method="pi", seed=1), FAILED, metrics(2.2), {})]
    for panels, verdict in (
        ({"d = 8": panel(jumps, smooth)}, "reproduced"),
        ({"d = 16": [*panel(jumps, smooth), *dead], "d = 64": [*panel((2.2,), smooth), *dead]}, "reproduced"),
        ({"d = 4": panel(smooth, smooth), "d = 8": panel(jumps, smooth)}, "in part"),
        ({"d = 8": panel(jumps, jumps)}, "differs"),
        ({"d = 8": panel(jumps, (1.0,))}, "not shown"),
    ):
        (claim,) = claims.of_curves(panels)
        assert claim.verdict == verdict
    (claim,) = claims.of_curves({"d = 16": [*panel(jumps, smooth), *dead], "d = 64": [*panel((2.2,), smooth), *dead]})
    assert "d = 16: PI 2 of 2, ours 0 of 1; d = 64: PI 1 of 1, ours 0 of 1" in claim.evidence


def test_a_picture_is_small_and_keeps_the_colours_of_its_lines() -> None:
    picture = analysis.show().figure
    assert picture is not None
    assert len(picture) < 100_000
    with Image.open(io.BytesIO(picture)) as image:
        seen = [colour for _, colour in image.convert("RGB").getcolors(1 << 24)]
    for name, (_, colour) in analysis.RULES.items():
        wanted = bytes.fromhex(colour.removeprefix("#"))
        assert min(max(abs(a - b) for a, b in zip(wanted, other, strict=True)) for other in seen) <= 4, name


def test_a_run_that_fails_in_its_first_step_is_drawn() -> None:
    """A cross in its method's colour at the top edge, though it has no loss to draw."""
    svd = dataclasses.replace(BASE, method="svd")
    nothing = [EpochMetrics(1, 0, math.nan, math.nan, 0.1, math.nan, 1.0)]
    runs = [Run(BASE, GOOD, metrics(1.5, 1.2), {}), Run(svd, Result(False, None, 1, "NaN"), nothing, {})]
    for picture in (figures.draw_curves({"d = 8": runs}), figures.curve_panel("d = 8", runs, QUANTITY, figures.LIGHT)):
        with Image.open(io.BytesIO(picture)) as image:
            pixels = np.asarray(image.convert("RGB")).astype(int)
        wanted = np.array(list(bytes.fromhex(methods.colour("svd").removeprefix("#"))))
        rows = np.nonzero((abs(pixels - wanted).max(axis=2) <= 16).any(axis=1))[0]
        assert len(rows)
        assert rows.min() < 0.25 * len(pixels)


def test_dark_pictures_are_dark() -> None:
    runs = [Run(BASE, GOOD, metrics(1.5, 1.2), {})]
    for theme, dark in ((figures.LIGHT, False), (figures.DARK, True)):
        with Image.open(io.BytesIO(figures.curve_panel("d = 8", runs, QUANTITY, theme))) as image:
            assert (np.asarray(image.convert("L")).mean() < 80) == dark


def test_a_broken_run_is_not_called_running(tmp_path: Path) -> None:
    kept = RunRecord(tmp_path / "trainings", BASE)
    kept.open()
    kept.write_broken(OSError("disk on fire"))
    write_report("figure1", [BASE], tmp_path)
    folder = tmp_path / "reports" / setting_name(BASE)
    for name in ("figure1.md", "report.html"):
        text = (folder / name).read_text()
        assert "broken: OSError: disk on fire" in text
        assert "running" not in text.replace("running estimates", "")


def test_statistics() -> None:
    """Wilson's interval and the tests, against figures from elsewhere."""
    assert statistics.wilson(0, 3) == pytest.approx((0.0, 56.15), abs=0.01)
    assert statistics.wilson(15, 15) == pytest.approx((79.61, 100.0), abs=0.01)
    paired = statistics.difference({0: 5.0, 1: 5.2, 2: 5.1}, {0: 4.0, 1: 4.3, 2: 4.0})
    assert paired is not None
    assert paired.test == "paired by seed"
    assert paired.mean == pytest.approx(1.0)
    assert (paired.low, paired.high) == pytest.approx((0.7516, 1.2484), abs=1e-3)  # 1 +- 4.303 * 0.1 / sqrt(3)
    welch = statistics.difference({0: 5.0, 1: 5.2, 2: 5.1}, {0: 4.0, 1: 4.3})
    assert welch is not None
    assert welch.test == "Welch"
    assert statistics.difference({0: 5.0}, {0: 4.0}) is None
    assert statistics.difference({0: 5.0, 1: 6.0}, {0: 4.0, 1: 5.0}) is None  # no noise seen
    assert statistics.same_means([[1.0, 1.1], [1.0, 1.1]]) == pytest.approx(1.0)
    assert statistics.same_means([[1.0], [1.0, 1.1]]) is None


def test_sweeps() -> None:
    """Figure 3 from runs: each point in the panels it belongs to."""
    configs = recipes.grid(recipes.Sweeps(), data="digits", model="small", epochs=2, seeds=3)
    runs = [Run(c, Result(True, 3.0 + 0.1 * c.seed + (2.0 if c.rank == 2 else 0.0)), [], {}) for c in configs]
    section = sections.section_of("figure3", runs)
    rows = list(csv.DictReader(section.csv.splitlines()))
    assert len(rows) == 18
    assert all(row["runs"] == "3" for row in rows)
    assert {row["panel"]: row["paper_error_pct"] for row in rows}["power_iterations"] == "4.61"
    assert [claim.verdict for claim in section.claims] == ["not shown", "not shown", "not shown", "reproduced"]
    spread = [dataclasses.replace(run, result=Result(True, _varied(run.config))) for run in runs]
    verdicts = [claim.verdict for claim in sections.section_of("figure3", spread).claims]
    assert verdicts == ["reproduced", "reproduced", "reproduced", "reproduced"]
    assert section.figure is not None
    assert section.figure.startswith(b"\x89PNG")


def _varied(config: RunConfig) -> float:
    """Errors that vary by seed and setting, and are larger at both ends."""
    noise = 0.1 * config.seed + 0.001 * (config.iterations + 1) * (config.seed + 1)
    noise += 0.01 * config.seed * (config.energy or 0) + 0.001 * config.seed * (config.rank or 0)
    return 3.0 + noise + (2.0 if config.rank == 2 or config.energy == 0.85 else 0.0)


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--virtual-time-budget=5000",
]  # fmt: skip
PROBE = """<!doctype html><meta charset="utf-8"><pre id="seen"></pre>
<iframe src="report.html" style="width: WIDTHpx; height: 900px; border: 0"></iframe><script>
document.querySelector("iframe").onload = event => {
  const page = event.target.contentDocument, root = page.documentElement
  const images = [...page.images].map(image => image.complete && image.naturalWidth > 0)
  const loaded = event.target.contentWindow.performance.getEntriesByType("resource").map(entry => entry.name)
  document.querySelector("#seen").textContent = JSON.stringify({
    width: root.clientWidth, needed: root.scrollWidth, images, loaded: loaded.filter(name => !name.startsWith("data:")),
    sections: page.querySelectorAll("h2").length, mode: page.compatMode,
  })
}
</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("width", [390, 1200])
def test_the_page_in_a_browser(width: int, tmp_path: Path) -> None:
    """On a phone and on a desktop: nothing sticks out of the page, every picture shows, nothing is loaded."""
    configs = recipes.grid(recipes.Whitening(), data="digits", model="small", epochs=2, seeds=1)
    for config in configs:
        record(tmp_path / "trainings", config, FAILED if config.method == "svd" else GOOD)
    write_report("table1", configs, tmp_path)
    write_analysis(tmp_path, "eigengrad reproduce analysis")
    for folder in (tmp_path / "reports").iterdir():
        (folder / "probe.html").write_text(PROBE.replace("WIDTH", str(width)))
        command = [CHROMIUM, *FLAGS, "--allow-file-access-from-files", f"--user-data-dir={tmp_path / 'profile'}"]
        dom = subprocess.run(
            [*command, "--dump-dom", f"file://{folder / 'probe.html'}"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        ).stdout
        seen = json.loads(dom.partition('<pre id="seen">')[2].partition("</pre>")[0])
        assert seen["needed"] <= seen["width"] <= width
        assert seen["images"]
        assert all(seen["images"])
        assert seen["loaded"] == []
        assert seen["sections"] >= 2
        assert seen["mode"] == "CSS1Compat"
