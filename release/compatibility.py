"""The library's short tests on several versions of torch: ``make compatibility``, which writes results/compatibility.*.

One wheel serves all, as in a release. Each version gets an environment of its own, outside the source tree, which is
deleted afterwards, and is left out, with pip's last line as the reason, where pip cannot install it. Versions that have
no CPU build come with CUDA's libraries (gigabytes) and run on a CPU all the same. By hand, therefore, and not in CI;
rows of versions not asked for stay:

    python release/compatibility.py 2.11.0 2.13.0 2.14.1 --folder /somewhere/with/space
"""

import argparse
import csv
import platform
import re
import shutil
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
COLUMNS = ("torch", "python", "kernel", "passed", "failed", "skipped", "commit", "processor", "note")
NEEDED = ("pytest", "hypothesis", "mpmath", "numpy")
KERNEL = "import eigengrad as eg; print(eg.native.instructions() or 'none')"


def run(*command: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Of this command, what it said and how it ended."""
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)


def wheel(folder: Path) -> Path:
    """Of this state of the sources, in ``folder``."""
    built = run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, ROOT)
    if built.returncode:
        raise SystemExit(built.stdout + built.stderr)
    return max(folder.glob("eigengrad-*.whl"), key=lambda path: path.stat().st_mtime)


def measure(version: str, package: Path, folder: Path) -> dict[str, str]:
    """A row of the table: the selection's counts with this version of torch, in an environment in ``folder``."""
    row = dict.fromkeys(COLUMNS, "") | {"torch": version, "python": platform.python_version()}
    row |= {"commit": run("git", "rev-parse", "--short=10", "HEAD").stdout.strip(), "processor": processor()}
    environment = folder / f"torch-{version}"
    python = environment / "bin" / "python"
    if not python.exists():
        venv.create(environment, with_pip=True)
    pip = run(python, "-m", "pip", "install", "--quiet", "--no-cache-dir", f"torch=={version}", *NEEDED, package)
    if pip.returncode:
        return row | {"note": (pip.stderr.strip().splitlines() or ["pip failed"])[-1]}
    row["kernel"] = run(python, "-c", KERNEL, cwd=folder).stdout.strip() or "does not import"
    options = ("-o", "addopts=-q", "--rootdir", ROOT, "-p", "no:cacheprovider")
    tests = run(python, "-m", "pytest", *options, *(ROOT / path for path in SELECTION), cwd=folder)
    (folder / f"torch-{version}.log").write_text(tests.stdout + tests.stderr)
    counts = {kind: number for number, kind in re.findall(r"(\d+) (passed|failed|skipped)", tests.stdout[-500:])}
    note = "" if tests.returncode == 0 else (tests.stdout.strip().splitlines() or [tests.stderr[-100:]])[-1]
    return row | counts | {"note": note}


def processor() -> str:
    """Its name, where the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*: (.+)$", cpuinfo.read_text(), re.MULTILINE) if cpuinfo.exists() else None
    return found[1] if found else platform.processor()


def written() -> list[dict[str, str]]:
    """The rows of earlier calls."""
    path = ROOT / "results" / "compatibility.csv"
    return list(csv.DictReader(path.read_text().splitlines())) if path.exists() else []


def write(rows: list[dict[str, str]]) -> None:
    """The table, for machines and for people, with earlier rows of other versions of torch."""
    measured = {row["torch"] for row in rows}
    rows = [*(row for row in written() if row["torch"] not in measured), *rows]
    rows.sort(key=lambda row: [int(part) for part in row["torch"].split(".")])
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
    parser.add_argument("--keep", action="store_true", help="do not delete the environments")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    package, rows = wheel(arguments.folder), list[dict[str, str]]()
    for version in arguments.versions:
        rows.append(measure(version, package, arguments.folder))
        print(rows[-1])
        write(rows)
        if not arguments.keep:
            shutil.rmtree(arguments.folder / f"torch-{version}")
    if any(row["failed"] or row["note"] for row in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
