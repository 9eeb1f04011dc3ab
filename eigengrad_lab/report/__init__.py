"""From records to what people look at: a table in the terminal, a folder with the same as files, and one HTML page."""

import base64
import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path

import jinja2
from rich.table import Table

from eigengrad_lab import paper
from eigengrad_lab.config import RunConfig
from eigengrad_lab.records import RunRecord, environment, write_atomically
from eigengrad_lab.report import figure1, table1
from eigengrad_lab.train import GUESS_SHARE, PATIENCE

__all__ = ["write_table1"]


def write_table1(configs: Sequence[RunConfig], runs: Path, folder: Path, command: Sequence[str]) -> Table:
    """Write ``table1.md``, ``table1.csv``, ``figure1.png`` and ``report.html`` from the records of ``configs``.

    Args:
        configs: the runs of the table. Those without a result are left out.
        runs: the folder of all runs' folders.
        folder: where the files go.
        command: the command line that made them.

    Returns:
        The table, for the terminal.
    """
    records = [RunRecord(runs, config) for config in configs]
    done = [(r.config, result, r.metrics()) for r in records if (result := r.result()) is not None]
    cells = table1.aggregate((config, result) for config, result, _ in done)
    grid = table1.lay_out(cells)
    setting = _setting(configs)
    missing = (
        f" {len(configs) - len(done)} of {len(configs)} runs have no result yet." if len(done) < len(configs) else ""
    )
    caption = f"{setting}.{missing} The paper: {paper.SETTING}."
    figure = figure1.draw(done)
    made_with = shlex.join(command)
    machine = {name: value for name, value in environment().items() if value is not None}

    folder.mkdir(parents=True, exist_ok=True)
    markdown = "\n".join(
        [
            "# Table 1: ZCA whitening\n",
            f"{caption} {_success_rule()}\n",
            table1.as_markdown(grid),
            "![training loss](figure1.png)\n",
            f"Made with `{made_with}` on {', '.join(f'{name} {value}' for name, value in machine.items())}.\n",
        ]
    )
    template = jinja2.Environment(
        loader=jinja2.PackageLoader("eigengrad_lab.report", "."), autoescape=True, undefined=jinja2.StrictUndefined
    ).get_template("report.html.jinja")
    page = template.render(
        caption=caption,
        success_rule=_success_rule(),
        grid=grid,
        figure=base64.b64encode(figure).decode(),
        command=made_with,
        machine=machine,
        runs=[(config, result) for config, result, _ in done],
        recipe=dataclasses.asdict(configs[0]),
    )
    for name, content in {
        "table1.md": markdown.encode(),
        "table1.csv": table1.as_csv(cells).encode(),
        "figure1.png": figure,
        "report.html": page.encode(),
    }.items():
        write_atomically(folder / name, lambda file, content=content: file.write(content))  # type: ignore[misc]
    return table1.as_rich(grid, "Table 1: ZCA whitening, error and success rate", caption)


def _setting(configs: Sequence[RunConfig]) -> str:
    """What was trained, in one phrase."""
    config = configs[0]
    images = f" ({config.train_images} training images)" if config.train_images else ""
    seeds = len({other.seed for other in configs})
    return f"{config.data}{images}, {config.model} network, {config.epochs} epochs, seeds: {seeds}"


def _success_rule() -> str:
    return (
        "A run succeeds when it ends without NaN, a failed decomposition or divergence: a training loss "
        f"above {GUESS_SHARE:.0%} of a guess's for {PATIENCE} epochs in a row or at the end. "
        "Errors are those of the last epoch, over the runs that succeeded."
    )
