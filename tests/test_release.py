"""What a release consists of agrees with itself."""

import importlib.util
import re
import tomllib
from pathlib import Path

import pytest

import eigengrad as eg

ROOT = Path(__file__).parent.parent


def part(name: str) -> object:
    spec = importlib.util.spec_from_file_location(name, ROOT / "release" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def index_readme() -> object:
    return part("index_readme")


def test_one_version() -> None:
    citation = (ROOT / "CITATION.cff").read_text()
    assert re.search(r"^version: (.+)$", citation, re.MULTILINE)[1] == eg.__version__
    date = re.search(r"^date-released: (.+)$", citation, re.MULTILINE)[1]
    assert f"## [{eg.__version__}] - {date}\n" in (ROOT / "CHANGELOG.md").read_text()
    assert "version" in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dynamic"]


@pytest.mark.parametrize(
    ("text", "repository", "expected"),
    [
        ("see [a](docs/a.md)", "https://example.org/e/", "see [a](https://example.org/e/blob/v1.2/docs/a.md)"),
        ("![a](b.png)", "https://example.org/e", "![a](https://example.org/e/raw/v1.2/b.png)"),
        ("see [a](docs/a.md), ![b](b.png)", None, "see a, "),
        ("[a](https://example.org) [b](#c)", None, "[a](https://example.org) [b](#c)"),
    ],
)
def test_links_that_work_away_from_the_repository(text: str, repository: str | None, expected: str) -> None:
    assert index_readme().absolute_links(text, repository, "1.2") == expected


def test_the_readme_of_an_index_has_no_relative_link(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    readme = index_readme().dynamic_metadata("readme", {})
    assert not index_readme().RELATIVE_LINK.search(readme["text"])
    assert readme["text"].startswith("# eigengrad")
    with pytest.raises(ValueError, match="no settings"):
        index_readme().dynamic_metadata("readme", {"input": "README.md"})


def test_what_the_readme_links_to_is_there() -> None:
    links = index_readme().RELATIVE_LINK.findall((ROOT / "README.md").read_text())
    assert links
    assert not [path for _, _, path in links if not (ROOT / path.split("#")[0]).exists()]


def test_what_an_upload_wants(tmp_path: Path) -> None:
    wanting = part("ready").wanting
    address = "https://example.org/e"
    (tmp_path / "eigengrad").mkdir()
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("pip install eigengrad\n")
    (tmp_path / "eigengrad" / "__init__.py").write_text('__version__ = "1.2.0"\n')
    project = tmp_path / "pyproject.toml"
    project.write_text("[project.urls]\n" + "".join(f'{name} = "{address}"\n' for name in part("ready").ADDRESSES))
    (tmp_path / "CITATION.cff").write_text(f"version: 1.2.0\nrepository-code: {address}\n")
    changelog = tmp_path / "CHANGELOG.md"
    changelog.write_text("# Changelog\n\n## [Unreleased]\n\n## [1.2.0] - 2026-01-02\n\n- new\n")
    systems = ("manylinux_2_28_x86_64", "manylinux_2_28_aarch64", "macosx_14_0_arm64", "any")
    files = ["eigengrad-1.2.0.tar.gz", *(f"eigengrad-1.2.0-py3-none-{system}.whl" for system in systems)]
    assert not list(wanting(tmp_path, files, ["v1.2.0"]))
    assert list(wanting(tmp_path, files[:-1], ["v1.2.0"])) == ["the files lack a pure wheel"]
    assert list(wanting(tmp_path, [], ["v1.1.0"])) == ["git: this commit has no tag v1.2.0"]
    changelog.write_text(changelog.read_text().replace("[Unreleased]\n", "[Unreleased]\n\n- newer\n"))
    assert list(wanting(tmp_path, [], ["v1.2.0"])) == ['CHANGELOG.md: what stands under "Unreleased" belongs to 1.2.0']
    project.write_text("[project]\n")
    assert next(wanting(tmp_path, [], [])).startswith("pyproject.toml: [project.urls] has no Changelog, Documentation,")


def test_the_table_of_versions_of_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compatibility = part("compatibility")
    monkeypatch.setattr(compatibility, "ROOT", tmp_path)
    (tmp_path / "results").mkdir()
    empty = dict.fromkeys(compatibility.COLUMNS, "")
    compatibility.write([empty | {"torch": "2.9.0", "passed": "12"}, empty | {"torch": "2.14.1", "note": "none"}])
    compatibility.write([empty | {"torch": "2.14.1", "passed": "13"}])  # another day
    header, *table = (tmp_path / "results" / "compatibility.csv").read_text().splitlines()
    assert header == ",".join(compatibility.COLUMNS)
    assert table == ["2.9.0,,,12,,,,,", "2.14.1,,,13,,,,,"]
    assert "| 2.14.1 |  |  | 13 |" in (tmp_path / "results" / "compatibility.md").read_text()
    assert all((Path(__file__).parent.parent / path).exists() for path in compatibility.SELECTION)
