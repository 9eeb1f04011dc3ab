"""One HTML page of everything that a setting has to show: a single file that loads nothing."""

import base64
from collections import Counter
from collections.abc import Sequence
from typing import Any

import jinja2

from eigengrad_lab import paper
from eigengrad_lab.report.runs import Run, describe
from eigengrad_lab.report.sections import Section
from eigengrad_lab.runs.environment import DECIDING, mixture
from eigengrad_lab.training import GUESS_SHARE, LOST, PATIENCE

__all__ = ["SUCCESS_RULE", "caption", "commands", "machine", "render", "setting"]

QUOTED = (*DECIDING, "python", "system", "cores")
SUCCESS_RULE = (
    "A run succeeds when it ends without NaN, a failed decomposition or divergence: a training loss above "
    f"{GUESS_SHARE:.0%} of a guess's for {PATIENCE} epochs in a row, at the end after it was below, or at the end and "
    f"above {LOST:g} times a guess's. One that ends there without any of these was not trained long enough, and is "
    "counted neither way. Errors are those of the last epoch, over the runs that succeeded; success rates have "
    "Wilson's 95% intervals, differences a test at the 5% level."
)


def render(
    title: str, text: str, sections: Sequence[Section], runs: Sequence[Run], made_with: Sequence[str], records: str = ""
) -> str:
    """The page. ``text`` is its first paragraph; every run is listed at the end, with the commands and the machine.

    ``records`` is where the runs' folders lie, from the page's own place.
    """
    template = jinja2.Environment(
        loader=jinja2.PackageLoader("eigengrad_lab.report", "."), autoescape=True, undefined=jinja2.StrictUndefined
    ).get_template("report.html.jinja")
    return template.render(
        title=title,
        text=text,
        sections=[_with_pictures(section) for section in sections],
        records=records,
        warning=mixture([run.environment for run in runs if run.environment]),
        success_rule=SUCCESS_RULE if runs else "",
        runs=sorted(runs, key=lambda run: run.config.identity),
        recipe=_recipe(runs),
        commands=list(made_with),
        machines=machine(runs),
    )


def caption(runs: Sequence[Run]) -> str:
    """The setting, and how runs differ in what they ran on."""
    return f"{setting(runs)} {mixture([run.environment for run in runs if run.environment])}".rstrip()


def setting(runs: Sequence[Run]) -> str:
    """What was trained, what is missing, and what the paper's figures are."""
    missing = sum(run.result is None for run in runs)
    left = f" Of {len(runs)} runs {missing} have no result yet." if missing else ""
    return f"{describe([run.config for run in runs])}.{left} The paper's figures: {paper.SETTING}."


def commands(runs: Sequence[Run]) -> list[str]:
    """The commands that trained the runs, the most frequent first."""
    return [str(c) for c, _ in Counter(run.environment.get("command") for run in runs).most_common() if c]


def machine(runs: Sequence[Run]) -> list[str]:
    """Versions and machines that the runs were trained on."""
    seen = Counter(
        ", ".join(f"{name} {value}" for name, value in run.environment.items() if value is not None and name in QUOTED)
        for run in runs
        if run.environment
    )
    return [text for text, _ in seen.most_common()]


def _with_pictures(section: Section) -> dict[str, Any]:
    """A section, and its pictures as a page takes them: those of its galleries, or else its figure."""
    galleries = [
        {
            "title": gallery.title,
            "legend": gallery.legend,
            "pictures": [
                {"text": picture.text, "light": _picture(picture.light), "dark": _picture(picture.dark)}
                for picture in gallery.pictures
            ],
        }
        for gallery in section.galleries
    ]
    figure = None if section.figure is None or galleries else _picture(section.figure)
    return {"of": section, "galleries": galleries, "figure": figure}


def _picture(png: bytes) -> dict[str, object]:
    """For an ``img``: what it shows, and its size, which stands in the first bytes."""
    width, height = (int.from_bytes(png[start : start + 4], "big") for start in (16, 20))
    return {"data": base64.b64encode(png).decode(), "width": width, "height": height}


def _recipe(runs: Sequence[Run]) -> dict[str, object]:
    fields = [run.config.to_dict() for run in runs]
    return {n: v for n, v in fields[0].items() if all(f[n] == v for f in fields) and v is not None} if fields else {}
