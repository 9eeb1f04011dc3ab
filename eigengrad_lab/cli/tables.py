"""Tables in the terminal: what would be trained, and what has been."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from eigengrad_lab.config import RunConfig
from eigengrad_lab.runs.records import RunRecord
from eigengrad_lab.runs.status import recorded_statuses

__all__ = ["show_plan", "show_statuses"]

STYLES = {"running": "cyan", "failed": "red", "broken": "bold red", "stopped": "yellow", "undecided": "yellow"}


def show_plan(configs: Sequence[RunConfig], root: Path, console: Console) -> None:
    """What would be trained, each run with its identity and what is known of it; and what they have in common."""
    fields = [config.to_dict() for config in configs]
    common = {name: value for name, value in fields[0].items() if all(other[name] == value for other in fields)}
    varied = [name for name in fields[0] if name not in common]
    table = Table("run", *varied, "state", title=f"{len(configs)} runs")
    for config, values in zip(configs, fields, strict=True):
        result = RunRecord(root, config).result()
        cells = ("" if values[name] is None else str(values[name]) for name in varied)
        table.add_row(config.identity, *cells, "to train" if result is None else f"done: {result}")
    console.print(table)
    for name, value in common.items():
        console.print(f"{name} {value}", highlight=False)


def show_statuses(root: Path, console: Console) -> None:
    """All runs below ``root``, and how many there are of each state."""
    every, strange = recorded_statuses(root)
    if not every:
        console.print(f"no runs in {root}; eigengrad reproduce or eigengrad train makes some", highlight=False)
    else:
        table = Table("run", "state", "")
        for run in every:
            table.add_row(run.name, run.state, run.detail, style=STYLES.get(run.state))
        console.print(table)
        counts = Counter(run.state for run in every).most_common()
        console.print(", ".join(f"{count} {state}" for state, count in counts), highlight=False)
    for sentence in strange:
        console.print(f"passed over {sentence}", style="yellow", highlight=False, markup=False)
