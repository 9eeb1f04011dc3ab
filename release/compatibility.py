"""The library's short tests on several versions of torch: ``make compatibility``, which writes results/compatibility.*.

Each version gets an environment of its own, outside the source tree, and is left out, with pip's last line as the
reason, where pip cannot install it. Versions that have no CPU build come with CUDA's libraries (5.6 GB) and run on a
CPU all the same. By hand, therefore, and not in CI:

    python release/compatibility.py 2.11.0 2.13.0 2.14.1 --folder /somewhere/with/space
"""

import argparse
import csv
import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).parent.parent
VERSIONS = ("2.11.0", "2.13.0", "2.14.1")
SELECTION = (
    "tests/test_eigh.py",
    "tests/test_gradients.py",
    "tests/test_matrix_functions.py",
    "tests/test_polar.py",
    "tests/test_projectors.py",
    "tests/test_svd.py",
    "tests/test_transforms.py",
    "tests/test_whitening.py",
)
COLUMNS = ("torch", "python", "kernel", "passed", "failed", "skipped", "note")


def measure(version: str, folder: Path) -> dict[str, str]:
    """A row of the table: the selection's counts with this version of torch."""
    row = dict.fromkeys(COLUMNS, "") | {"torch": version, "python": sys.version.split()[0]}
    environment = folder / f"torch-{version}"
    python = environment / "bin" / "python"
    if not python.exists():
        venv.create(environment, with_pip=True)
    installed = subprocess.run(
        [
            python,
            "-m",
            "pip",
            "install",
            "--quiet",
            f"torch=={version}",
            "pytest",
            "hypothesis",
            "mpmath",
            "numpy",
            ROOT,
        ],
        capture_output=True,
        text=True,
    )
    if installed.returncode:
        return row | {"note": (installed.stderr.strip().splitlines() or ["pip failed"])[-1]}
    kernel = subprocess.run(
        [python, "-c", "import eigengrad as eg; print(eg.native.instructions() or 'none')"],
        capture_output=True,
        text=True,
        cwd=folder,
    )
    tests = subprocess.run(
        [
            python,
            "-m",
            "pytest",
            "-q",
            "--rootdir",
            ROOT,
            "-p",
            "no:cacheprovider",
            *(ROOT / path for path in SELECTION),
        ],
        capture_output=True,
        text=True,
        cwd=folder,
    )
    (folder / f"torch-{version}.log").write_text(tests.stdout + tests.stderr)
    counts = {kind: number for number, kind in re.findall(r"(\d+) (passed|failed|skipped)", tests.stdout[-500:])}
    note = "" if tests.returncode == 0 else (tests.stdout.strip().splitlines() or [tests.stderr[-100:]])[-1]
    return row | counts | {"kernel": kernel.stdout.strip() or "does not import", "note": note}


def write(rows: list[dict[str, str]]) -> None:
    """The table, for machines and for people."""
    with (ROOT / "results" / "compatibility.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    lines = ["# The short tests on several versions of torch", "", "`make compatibility`; on a CPU.", ""]
    lines += [" | ".join(["", *COLUMNS, ""]).strip(), "|" + "---|" * len(COLUMNS)]
    lines += [" | ".join(["", *(row[column] for column in COLUMNS), ""]).strip() for row in rows]
    (ROOT / "results" / "compatibility.md").write_text("\n".join(lines) + "\n")


def main() -> None:
    """Measure each version, and write the table after each, so that an interruption loses little."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("versions", nargs="*", default=VERSIONS, help=f"of torch; else {', '.join(VERSIONS)}")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "eigengrad-compatibility")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, str]] = []
    for version in arguments.versions:
        rows.append(measure(version, arguments.folder))
        print(rows[-1])
        write(rows)
    if any(row["failed"] or row["note"] for row in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
