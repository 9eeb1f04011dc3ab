"""From records to what people look at: a table in the terminal, files beside each other, and one HTML page a setting.

A *setting* is what the runs of a table share: data, network, epochs, and the recipe. Its folder holds for each table or
figure a Markdown file, a CSV and a picture, and one ``report.html`` with all of them. Everything is made from the
records alone.
"""

import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

from rich.console import Group, RenderableType
from rich.text import Text

from eigengrad_lab.config import RunConfig
from eigengrad_lab.recipes import EXPERIMENTS
from eigengrad_lab.report import analysis, grid, page
from eigengrad_lab.report.claims import Claim
from eigengrad_lab.report.runs import Run, by_setting, read_runs, setting_name
from eigengrad_lab.report.sections import Section, section_of
from eigengrad_lab.runs.environment import environment
from eigengrad_lab.runs.files import write_atomically, write_text
from eigengrad_lab.runs.records import trainings

__all__ = ["rebuild", "write_analysis", "write_report"]


def write_report(name: str, configs: Sequence[RunConfig], output: Path) -> tuple[RenderableType, bool]:
    """The table or figure ``name`` of ``configs``, done or not, and whether the reports of their setting could be
    renewed.

    What hours of training have shown is shown, whether or not there is room to write it down.
    """
    setting, root = setting_name(configs[0]), trainings(output)
    recorded = read_runs(by_setting(root)[0].get(setting, []), root)
    planned = read_runs(configs, root)
    folder = output / "reports" / setting
    made = _sections(_by_experiment(recorded) | {name: planned})
    shown = _as_rich(made[name][0], page.caption(planned))
    try:
        _write_setting(folder, made, records=_relative(root, folder))
    except OSError as error:
        return Group(shown, Text(f"the report cannot be written to {folder}: {error.strerror or error}", "red")), False
    return Group(shown, _where(folder)), True


def rebuild(output: Path, what: Collection[str] = ()) -> Iterator[RenderableType]:
    """Write everything again from the records below ``output``, and yield what the terminal shows of it.

    Of ``what`` alone, names of tables and figures, if any are given.
    """
    root = trainings(output)
    settings, strange = by_setting(root)
    for sentence in strange:
        yield Text(f"passed over {sentence}", style="yellow")
    for setting, configs in settings.items():
        experiments = _by_experiment(read_runs(configs, root))
        if experiments:
            folder, made = output / "reports" / setting, _sections(experiments)
            _write_setting(folder, made, records=_relative(root, folder))
            shown = [_as_rich(made[name][0], page.caption(made[name][1])) for name in made if not what or name in what]
            yield from shown
            if shown:
                yield _where(folder)


def write_analysis(output: Path, command: str) -> RenderableType:
    """The paper's analysis, which needs no training."""
    folder = output / "reports" / "analysis"
    section = analysis.show()
    made_on = [", ".join(f"{name} {value}" for name, value in environment().items() if value is not None)]
    _write_files(folder, "analysis", section, analysis.TEXT, [command], made_on)
    write_text(folder / "report.html", page.render("Analysis", analysis.TEXT, [section], [], [command]))
    return Group(_as_rich(section, analysis.TEXT), _where(folder))


def _by_experiment(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """The runs of each table and figure that some run was made for."""
    runs, found = list(runs), {}
    for name, experiment in EXPERIMENTS.items():
        shown = [run for run in runs if experiment.varied.shows(run.config)]
        if any(experiment.varied.is_reason_for(run.config) for run in shown):
            found[name] = shown
    return found


Made = dict[str, tuple[Section, list[Run]]]


def _sections(experiments: dict[str, list[Run]]) -> Made:
    """The section of each table and figure, in the order of a report, and its runs."""
    return {
        name: (section_of(name, experiments[name]), experiments[name]) for name in EXPERIMENTS if name in experiments
    }


def _write_setting(folder: Path, made: Made, *, records: str) -> None:
    """The files of each table and figure, and the page of all."""
    everything = list({run.config.identity: run for _, runs in made.values() for run in runs}.values())
    for name, (section, runs) in made.items():
        text = f"{page.caption(runs)} {page.SUCCESS_RULE}"
        _write_files(folder, name, section, text, page.commands(runs), page.machine(runs))
    title = "Backpropagation-friendly eigendecomposition, reproduced"
    sections = [section for section, _ in made.values()]
    html = page.render(title, page.setting(everything), sections, everything, page.commands(everything), records)
    write_text(folder / "report.html", html)


def _relative(root: Path, folder: Path) -> str:
    """From a page to the folder of all records."""
    return os.path.relpath(root.absolute(), folder.absolute())


def _write_files(
    folder: Path, name: str, section: Section, text: str, made_with: Sequence[str], made_on: Sequence[str]
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    parts = [f"# {section.title}", text, grid.as_markdown(section.grid).rstrip("\n")]
    if section.figure is not None:
        parts.append(f"![{section.figure_text}]({name}.png)")
        figure = section.figure
        write_atomically(folder / f"{name}.png", lambda file: file.write(figure))
    parts += section.notes
    if section.claims:
        parts += ["## The paper's claims, and these runs", _claims_as_markdown(section.claims)]
    made = "\n".join(["Made with", *(f"`{command}`" for command in made_with)]) if made_with else ""
    parts += [text for text in (made, *(f"On {machine}." for machine in made_on)) if text]
    write_text(folder / f"{name}.md", "\n\n".join(parts) + "\n")
    write_text(folder / f"{name}.csv", section.csv)


def _claims_as_markdown(claims: Sequence[Claim]) -> str:
    return "\n".join(f"* **{claim.verdict}**: {claim.text} ({claim.evidence})." for claim in claims)


def _as_rich(section: Section, caption: str) -> RenderableType:
    claims = [Text(f"{claim.verdict:>10}: {claim.text} ({claim.evidence})") for claim in section.claims]
    return Group(grid.as_rich(section.grid, section.title), Text(caption, style="italic"), *claims)


def _where(folder: Path) -> RenderableType:
    return Text(f"report.html, and each table and figure as md, csv and png, are in {folder}", no_wrap=True)
