"""The site's sources are whole: every public name has a place, every thread its reproducer, every link its target."""

import csv
import math
import re
import sys
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
sys.path.insert(0, str(DOCS))

from sitekit import api, gallery, links, mathml, measured, repository, signatures  # noqa: E402

PAGES = sorted(DOCS.glob("*.md"))
LINK = re.compile(r"\]\((?!\w+:|#)([^)\s]+)\)")


def test_every_public_name_has_a_place() -> None:
    concepts = api.by_concept()
    placed = [name for names in concepts.values() for name in names]
    assert sorted(placed) == sorted(api.public_names())
    assert {"eigengrad.eigh", "eigengrad.nn.ZCAWhitening", "eigengrad.testing.spectrum"} <= set(placed)
    assert all(value.__doc__ for value in api.public_names().values())


def test_a_name_without_a_place_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "CONCEPTS", api.CONCEPTS[1:])
    with pytest.raises(ValueError, match=r"eigengrad\.eigh is defined in eigengrad\.eigh: name that module"):
        api.by_concept()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path, tmp_path: Path) -> None:
    made = {
        "_generated/accuracy.md",
        "_generated/speed.md",
        "_generated/api.md",
        "_generated/changes.md",
        "gallery/index.rst",
    }
    made |= {f"gallery/{path.parent.name}/{path.stem}.rst" for path in (ROOT / "examples").glob("*/*.py")}
    made |= {f"_generated/api-{concept.slug}.md" for concept in api.CONCEPTS}
    missing = {
        target
        for link in LINK.findall(page.read_text())
        if (target := link.split("#")[0]) and target not in made and not (DOCS / target).exists()
    }
    assert not missing


def test_every_page_is_in_the_table_of_contents() -> None:
    contents = re.findall(r"^[\w/-]+\*?$", (DOCS / "index.md").read_text(), re.MULTILINE)
    listed = {path.name for pattern in contents for path in DOCS.glob(f"{pattern}.md")}
    assert listed | {"index.md"} >= {page.name for page in PAGES}


def test_threads_have_reproducers() -> None:
    text = (DOCS / "threads.md").read_text()
    sections = re.split(r"^### ", text.split("## Not solved")[0], flags=re.MULTILINE)[1:]
    assert len(set(re.findall(r"\(gh:(\S+?)\)", text))) >= 25
    for section in sections:
        assert section.startswith("[")
        assert re.search(r"^\*\*(Solved|In part)", section, re.MULTILINE), section[:60]
        assert ">>> " in section, section[:60]
        theirs = re.search(r"torch\.(linalg\b|lobpcg)|by_eigh\(|by_svd\(|by_eigenvalues\(|theirs\)", section)
        assert theirs or "**In part.** ONNX" in section, section[:60]
    assert len(re.findall(r"^\* \[", text.split("## Not solved")[1], re.MULTILINE)) >= 4


def test_measured_pages_hold_what_the_files_hold() -> None:
    accuracy, speed = measured.accuracy(ROOT / "results"), measured.speed(ROOT / "results")
    rows = (ROOT / "results" / "accuracy.csv").read_text().splitlines()[1:]
    assert all(row.split(",")[0] in accuracy for row in rows)
    assert accuracy.count("**nan**") == 0
    assert "| holds |" in speed or "| fails |" in speed
    commit = re.search(r"^\* commit: (\w+)$", (ROOT / "results" / "accuracy.md").read_text(), re.MULTILINE)[1]
    assert f"commit {commit}" in accuracy


def test_the_readme_says_what_the_file_says() -> None:
    with (ROOT / "results" / "accuracy.csv").open() as file:
        measured = {tuple(row[key] for key in list(row)[:4]): row for row in csv.DictReader(file)}
    places = {
        "gap 1e-6": ("gap 1e-6", "gap 1e-6", "gradient"),
        "exact tie": ("tie", "tie", "gradient"),
        "scale 1e-100 / 1e-15": ("gap 1e-3, scale 1e-100", "gap 1e-3, scale 1e-15", "gradient"),
        "second derivative, identity": ("identity", "identity", "second"),
    }
    methods = ("ours", "torch eigh", "torchspd", "spd_learn", "xitorch", "pyriemann")
    lines = dict(re.findall(r"^\| ([^|]+) \| (.+) \|$", (ROOT / "README.md").read_text(), re.MULTILINE))
    for label, (double, single, quantity) in places.items():
        for method, said in zip(methods, lines[label].split(" | "), strict=True):
            for dtype, spectrum, figure in zip(
                ("float64", "float32"), (double, single), said.split(" / "), strict=True
            ):
                exact = float(measured["logm", dtype, spectrum, method][quantity])
                assert math.isclose(float(figure), float(f"{exact:.0e}")) or math.isnan(float(figure) + exact)


def test_the_table_of_rules_says_what_the_file_says() -> None:
    """Up to a factor of 3, since what is left of rounding differs between machines."""
    page, file = (DOCS / "choosing.md").read_text(), (ROOT / "results" / "gaps.md").read_text()
    gaps = re.search(r"^\| gap \| (.+) \|$", page, re.MULTILINE)[1].split(" | ")
    heading = re.search(r"^\| precision .*", file, re.MULTILINE)[0].strip("| ").split(" | ")
    columns = [column.removeprefix("gap ") for column in heading]
    for rule in ("Lorentzian()", "Exact()", "PowerIteration(19)", "PowerIteration(1000)", "Taylor(9)"):
        said = re.search(rf"^\| `{re.escape(rule)}` \| (\S+ \| .+) \|$", page, re.MULTILINE)[1].split(" | ")
        measured = re.search(rf"^\| float64 \| three \| `{re.escape(rule)}`.*", file, re.MULTILINE)[0]
        measured = measured.strip("| ").split(" | ")
        for gap, figure in zip(gaps, said, strict=True):
            (place,) = (k for k, column in enumerate(columns) if k > 2 and math.isclose(float(column), float(gap)))
            ratio = float(figure) / float(measured[place])
            assert 1 / 3 <= ratio <= 3 or figure == "nan" == measured[place], (rule, gap)


def test_results_are_linked_as_the_site_has_them() -> None:
    source = ["see [the table](../../results/a.csv), [code](../../eigengrad/eigh.py), [a page](../choosing.md)"]
    repository.rewrite(None, "_generated/speed", source)
    assert source == ['see <a href="../results/a.csv">the table</a>, code, [a page](../choosing.md)']


def test_names_are_linked_and_code_is_left_alone() -> None:
    text = "`eg.eigh(A, k)` and `eg.nothing`\n\n```python\n>>> `eg.eigh`\n1\n\n```\nor `eg.nn.fold`"
    source = [text]
    repository.rewrite(None, "choosing", source)
    assert source == [
        "{py:obj}`eg.eigh(A, k) <eigengrad.eigh>` and `eg.nothing`\n\n```python\n>>> `eg.eigh`\n1\n```\n"
        "or {py:obj}`eg.nn.fold <eigengrad.nn.fold>`"
    ]


def test_a_page_of_the_gallery_begins_with_its_picture() -> None:
    picture = ".. image-sg:: /gallery/a/images/b_001.png\n   :alt: b\n   :class: c\n"
    code = ".. GENERATED FROM PYTHON SOURCE LINES 1-2\n\n.. code-block:: Python\n\n    1\n"
    source = [f"B\n=\n\nWhat it is.\n\n{code}\n{code}\n{picture}\nOut\n"]
    gallery.picture_first(None, "gallery/a/b", source)
    assert source == [f"B\n=\n\nWhat it is.\n\n{picture}\n{code}\n{code}\n\nOut\n"]


def test_a_signature_says_what_its_defaults_are_worth() -> None:
    whiten = api.public_names()["eigengrad.whiten"]
    said, _ = signatures.valued(
        None, "function", "", whiten, None, "(x, momentum=MOMENTUM, *, a=None, b=NOT_THERE)", ""
    )
    assert re.fullmatch(r"\(x, momentum=[0-9.]+, \*, a=None, b=NOT_THERE\)", said)
    assert signatures.valued(None, "attribute", "", 1, None, None, None) is None


def test_formulas_may_break_at_a_space_and_have_their_font(tmp_path: Path) -> None:
    assert mathml.SPACE.split(r"a, \qquad b \quad c") == ["a, ", "b ", "c"]
    pytest.importorskip("ziamath")
    (tmp_path / "_static").mkdir()
    site = types.SimpleNamespace(outdir=tmp_path, builder=types.SimpleNamespace(format="html"))
    mathml.write_font(site, None)
    font = pytest.importorskip("fontTools.ttLib").TTFont(tmp_path / "_static" / "formula.woff")
    assert "MATH" in font
    assert {ord("x"), 0x3BB, 0x1D706, 0x2218, 0x2211} <= set(font.getBestCmap())


def test_the_walk_over_a_site_finds_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        '<a href="b.html#there">1</a> <a href="b.html#gone">2</a> <a href="c.html">3</a> <a href="https://x.org">4</a>'
        '<img src="https://x.org/p.png"> <link rel="canonical" href="https://x.org/a"> <img src="data:image/png,0">'
    )
    (tmp_path / "b.html").write_text('<p id="there">here</p>')
    assert links.problems(tmp_path) == [
        "a.html links to b.html#gone, which has no such place",
        "a.html links to c.html, which is not there",
        "a.html loads https://x.org/p.png",
    ]


def test_exit_codes_are_those_of_the_command() -> None:
    parser = pytest.importorskip("eigengrad_lab.cli.parser")
    page = (DOCS / "laboratory-runs.md").read_text()
    for code, meaning in parser.EXIT_CODES.items():
        assert f"| {code} | {meaning.replace('--hours', '`--hours`').replace('of train', 'of `train`')} |" in page
