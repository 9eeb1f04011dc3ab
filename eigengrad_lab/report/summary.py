"""One line for each run: configuration, figures, and what they must be quoted with."""

import csv
import dataclasses
import io
from pathlib import Path

from eigengrad_lab.config import RunConfig
from eigengrad_lab.runs.files import write_text
from eigengrad_lab.runs.records import recorded_runs
from eigengrad_lab.runs.status import status_of

__all__ = ["write_summary"]

FIGURES = ("test_error_pct", "failed_at_step", "reason", "seconds", "peak_memory_mb")
FROM_LAST_EPOCH = ("train_loss", "largest_gradient_norm", "skipped_steps")
PLACE = ("commit", "torch", "python", "processor", "kernel", "threads", "blas", "device", "command")


def write_summary(root: Path, path: Path) -> tuple[Path, int]:
    """Write the CSV of all runs below ``root`` to ``path``, and count them."""
    records, _ = recorded_runs(root)
    fields = [field.name for field in dataclasses.fields(RunConfig)]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["run", *fields, "state", *FIGURES, "epochs_done", *FROM_LAST_EPOCH, *PLACE])
    for record in records:
        config, result, metrics, place = (
            record.config.to_dict(),
            record.result(),
            record.metrics(),
            record.environment(),
        )
        last = metrics[-1] if metrics else None
        writer.writerow(
            [
                record.config.identity,
                *(" ".join(map(str, v)) if isinstance(v := config[name], list) else v for name in fields),
                status_of(record).state,
                *(_short(getattr(result, name, None)) for name in FIGURES),
                len(metrics),
                *(_short(getattr(last, name, None)) for name in FROM_LAST_EPOCH),
                *(place.get(name) for name in PLACE),
            ]
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, file.getvalue())
    return path, len(records)


def _short(value: object) -> object:
    return f"{value:.7g}" if isinstance(value, float) else value
