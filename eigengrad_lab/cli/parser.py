"""From words to a command, and from its end to an exit code.

Nothing heavy is imported until a command runs, so that --help answers at once.
"""

import sys
from collections.abc import Sequence

import tyro

from eigengrad_lab.cli.options import Analysis, Command, Report, Status, Train, reproducing
from eigengrad_lab.config import UsageError
from eigengrad_lab.recipes import EXPERIMENTS
from eigengrad_lab.runs.signals import interrupt_on_sigterm

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse ``arguments`` (those of the process by default) and run the command."""
    arguments = sys.argv[1:] if arguments is None else arguments
    request = parse(arguments)

    from eigengrad_lab.cli import commands

    interrupt_on_sigterm()
    try:
        done = commands.run(request, arguments)
    except UsageError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on from here")
    sys.exit(0 if done else 1)


def parse(arguments: Sequence[str]) -> Command:
    """The command that ``arguments`` ask for; ends the process for --help and for options that do not exist."""
    reproduce = tyro.extras.SubcommandApp()
    for experiment in sorted(EXPERIMENTS.values(), key=lambda experiment: experiment.name.startswith("figure")):
        reproduce.command(name=experiment.name)(reproducing(experiment))
    reproduce.command(name="analysis")(Analysis)
    app = tyro.extras.SubcommandApp()
    app.command(reproduce, name="reproduce", help="Reproduce a table or a figure of the paper.")
    app.command(name="train")(Train)
    app.command(name="status")(Status)
    app.command(name="report")(Report)
    return app.cli(prog="eigengrad", description="The laboratory of eigengrad.", args=arguments)
