"""The examples run, and end as they say."""

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(name: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    return capsys.readouterr().out.splitlines()


def test_through_a_tie(capsys: pytest.CaptureFixture[str]) -> None:
    first, *others = run("through_a_tie.py", capsys)
    assert first.startswith("torch.linalg.eigh")
    assert "not finite" in first
    assert len(others) == 5
    assert all(float(line.split()[-1]) < 1e-10 for line in others)


def test_robust_pose(capsys: pytest.CaptureFixture[str]) -> None:
    *_, equal, learned = run("robust_pose.py", capsys)
    assert float(learned.split()[-1]) < 0.1 * float(equal.split()[-1])


def test_whitening_in_and_out(capsys: pytest.CaptureFixture[str]) -> None:
    _, whitening, folded = run("whitening_in_and_out.py", capsys)
    assert float(whitening.split()[1].removesuffix("%")) > 90
    assert float(folded.split()[-1]) < 1e-5


def test_neighbours(capsys: pytest.CaptureFixture[str]) -> None:
    lines = run("neighbours.py", capsys)
    assert len(lines) == 3
    assert all(" with eigengrad norm " in line or line.endswith("not installed") for line in lines)


def test_own_method(capsys: pytest.CaptureFixture[str]) -> None:
    half, paper = run("own_method.py", capsys)
    assert all(float(line.split()[-2].removesuffix("%")) > 60 for line in (half, paper))


def test_every_example_is_tested() -> None:
    source = Path(__file__).read_text()
    assert all(f'"{path.name}"' in source for path in EXAMPLES.glob("*.py"))
