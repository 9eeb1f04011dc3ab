"""The pages Accuracy and Speed, from the files in ``results/``, and the changelog; no number is written by hand."""

import csv
import json
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

__all__ = ["accuracy", "speed", "write"]

METHODS_FIRST = ("ours", "ours in a batch", "torch eigh", "torch svd", "torch's own")
BENCHMARKS = {
    "eigh": "`eigh`, forward and backward",
    "matrix_functions": "Functions of a matrix, forward and backward",
    "eigsh": "A few eigenpairs of a large operator",
    "spd": "The geometry of covariances",
    "whitening": "The whitening layer",
    "training_step": "A training step",
    "throughput": "Throughput",
}
SECOND = (
    "At the identity (of `expm`, at zero), where all eigenvalues meet; `nan` stands for no number and for no second "
    "derivative."
)
OTHERS = ("torchspd", "spd_learn", "xitorch", "pyriemann")


def write(results: Path, folder: Path) -> None:
    """The pages, in ``folder``."""
    folder.mkdir(exist_ok=True)
    changes = (results.parent / "CHANGELOG.md").read_text().replace("](results/", "](../../results/")
    for name, page in (("accuracy", accuracy(results)), ("speed", speed(results)), ("changes", changes)):
        path = folder / f"{name}.md"
        if not path.exists() or path.read_text() != page:
            path.write_text(page)
    picture(results, folder / "speed.svg")


def accuracy(results: Path) -> str:
    """Gradients against arithmetic of many digits: a table for each function and precision."""
    with (results / "accuracy.csv").open() as file:
        rows = list(csv.DictReader(file))
    methods = sorted({row["method"] for row in rows}, key=lambda name: (_place(name, METHODS_FIRST), name))
    lines = [
        "# Accuracy",
        "",
        "Largest relative error of the gradient over a few random 8 x 8 matrices, against arithmetic of many digits; "
        "`nan` says that the result was no number. The least of a row is bold, ours or not. Torch's own functions are "
        "`matrix_exp`, and `matrix_sqrth` and `polar` of torch 2.14. Made from "
        "[results/accuracy.csv](../../results/accuracy.csv), measured with "
        f"{_provenance(_listed(results / 'accuracy.md'))}.",
        "",
    ]
    gradients = [row for row in rows if row["gradient"]]
    for function in dict.fromkeys(row["function"] for row in gradients):
        lines += [f"## `{function}`", ""]
        for dtype in dict.fromkeys(row["dtype"] for row in gradients):
            chosen = [row for row in gradients if (row["function"], row["dtype"]) == (function, dtype)]
            lines += [f"**{dtype}**", "", *_errors(chosen, "spectrum", "gradient", methods), ""]
    seconds = [row | {"of": f"`{row['function']}`, {row['dtype']}"} for row in rows if row["second"]]
    lines += ["## Second derivatives", "", SECOND, ""]
    lines += [*_errors(seconds, "of", "second", methods), ""]
    for name in ("gaps.md", "compatibility.md"):
        if (results / name).exists():
            lines += [(results / name).read_text().replace("\n## ", "\n### ").replace("# ", "## ", 1), ""]
    return "\n".join(lines)


def _errors(rows: list[dict[str, str]], line: str, quantity: str, methods: list[str]) -> list[str]:
    """A table of ``quantity``: a line for each value of ``line``, a column for each method that has any."""
    cells = {(row[line], row["method"]): row[quantity] for row in rows}
    shown = [method for method in methods if any(method == other for _, other in cells)]
    table = [_row([line.replace("of", "function"), *shown]), "|" + "---|" * (len(shown) + 1)]
    for label in dict.fromkeys(label for label, _ in cells):
        errors = [cells.get((label, method), "") for method in shown]
        least = min((float(error) for error in errors if error and error != "nan"), default=None)
        table.append(_row([label, *(_bold(error, least) for error in errors)]))
    return table


def _listed(page: Path) -> dict[str, str]:
    """The provenance that ends a page of results, one ``* key: value`` a line."""
    lines = [line.removeprefix("* ") for line in page.read_text().split("\n\n")[-1].strip().splitlines()]
    return dict(line.split(": ", 1) for line in lines)


def speed(results: Path) -> str:
    """Claims as the benchmark of calls judged them, then every ratio of the others."""
    calls = json.loads((results / "calls.json").read_text())
    lines = [
        "# Speed",
        "",
        "Ratios of times, ours to the rival's, taken side by side in one process: below 1, ours is faster. Absolute "
        "times are one machine's alone and stand in the files.",
        "",
        "![All ratios, a line for each benchmark](speed.svg)",
        "",
        "## What is claimed of calls",
        "",
        f"Measured with {_provenance(calls['provenance'])}.",
        "",
        "From [results/calls.json](../../results/calls.json); all cells: [results/calls.md](../../results/calls.md). "
        "A claim that fails somewhere says so.",
        "",
        "| verdict | claim |",
        "|---|---|",
    ]
    for claim in calls["claims"]:
        verdict, _, text = claim.partition(": ")
        lines.append(_row([verdict.lower(), text]))
    for name, title in BENCHMARKS.items():
        provenance, ratios = _measured(results, name)
        if ratios:
            lines += ["", f"## {title}", "", f"From [results/{name}.json](../../results/{name}.json), measured with "]
            lines[-1] += f"{_provenance(provenance)}."
            values = [ratio for _, _, ratio, _ in ratios]
            quicker, said = sum(ratio < 1 for ratio in values), f"{len(ratios)} ratios"
            said = f"All {said}: ours is faster in {quicker}; {min(values):.3g} at best, {max(values):.3g} at worst"
            table = [_row([case, rival, f"{ratio:.3g}", quartiles]) for case, rival, ratio, quartiles in ratios]
            lines += ["", f"<details><summary>{said}</summary>", ""]
            lines += ["| case | rival | ratio | quartiles |", "|---|---|---|---|", *table, "", "</details>"]
    if (results / "native.png").exists():
        lines += ["", "## The kernel alone", "", "![Speed of the kernel against LAPACK](../../results/native.png)", ""]
    return "\n".join(lines) + "\n"


def picture(results: Path, path: Path) -> None:
    """All ratios of the page Speed, a line for each benchmark."""
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axis = figure.subplots()
    lines = 0
    for name, title in reversed(BENCHMARKS.items()):
        ratios = [ratio for _, _, ratio, _ in _measured(results, name)[1]]
        if ratios:
            axis.plot(sorted(ratios), [lines] * len(ratios), "|", ms=14, mew=1.5, color="#0b5e55", alpha=0.6)
            axis.text(0.01, lines + 0.34, title.replace("`", ""), transform=axis.get_yaxis_transform(), va="center")
            lines += 1
    axis.axvline(1, color="#7a1f1f", lw=1)
    axis.set(xscale="log", yticks=[], ylim=(-0.4, lines - 0.3), xlabel="ours to the rival's: faster | slower")
    axis.xaxis.set_major_formatter("{x:g}")
    figure.savefig(path)


def _measured(results: Path, name: str) -> tuple[dict[str, Any], list[tuple[str, str, float, str]]]:
    """A benchmark's provenance, and case, rival, ratio and quartiles of each measurement."""
    path = results / f"{name}.json"
    content = json.loads(path.read_text()) if path.exists() else {"provenance": {}, "measured": {}}
    found = [
        (case, rival, cell["ratio"], _quartiles(cell))
        for case, rivals in content["measured"].items()
        for rival, cell in (rivals.items() if isinstance(rivals, dict) else ())
        if isinstance(cell, dict) and isinstance(cell.get("ratio"), float)
    ]
    return content["provenance"], found


def _quartiles(cell: dict[str, Any]) -> str:
    if "ratio_lower_quartile" not in cell:
        return ""
    return f"{cell['ratio_lower_quartile']:.3g} to {cell['ratio_upper_quartile']:.3g}"


def _provenance(provenance: dict[str, Any]) -> str:
    """The command, and of which state of the code and on which machine, as far as the file says."""
    commit = provenance.get("commit")
    said = [f"`{provenance.get('command', '')}`", f"eigengrad {provenance.get('eigengrad', '')}"]
    said += [f"commit {commit}" if commit else "an earlier commit, which the file does not name"]
    said += [f"{key} {provenance[key]}" for key in ("torch", "python", "kernel") if key in provenance]
    said += [f"{key} {provenance[key]}" for key in OTHERS if key in provenance]
    said += [str(provenance[key]) for key in ("processor",) if provenance.get(key)]
    said += [f"{key} {provenance[key]}" for key in ("cores", "threads") if key in provenance]
    return ", ".join(said)


def _place(name: str, first: tuple[str, ...]) -> int:
    return first.index(name) if name in first else len(first)


def _bold(error: str, least: float | None) -> str:
    """Two digits, bold where the error is the least."""
    if not error or error == "nan":
        return error
    digits = f"{float(error):.1e}".replace("e-0", "e-").replace("e+00", "")
    return f"**{digits}**" if float(error) == least else digits


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
