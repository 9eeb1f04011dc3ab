"""From words to a command, and from its end to an exit code.

Nothing heavy is imported until a command runs, so that --help answers at once.
"""

import sys
from collections.abc import Sequence

import tyro

from eigengrad_lab.cli.options import Analysis, Command, Export, Report, Status, Summary, Train, reproducing
from eigengrad_lab.config import UsageError
from eigengrad_lab.parts import did_you_mean
from eigengrad_lab.recipes import EXPERIMENTS
from eigengrad_lab.runs.signals import interrupt_on_sigterm

__all__ = ["EXIT_CODES", "main"]

DONE, FAILED, USAGE, TIME_IS_UP, INTERRUPTED = 0, 1, 2, 3, 130
EXIT_CODES = {
    DONE: "everything asked for is done",
    FAILED: "a run broke (the same command tries again); of train, also: the training failed",
    USAGE: "something asked for does not exist, cannot be read or cannot be written",
    TIME_IS_UP: "--hours are over, states are saved (the same command goes on)",
    INTERRUPTED: "Ctrl-C or SIGTERM, states are saved (the same command goes on)",
}
COMMANDS = ("reproduce", "train", "status", "summary", "export", "report")


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse ``arguments`` (those of the process by default) and run the command."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments and arguments[0] in ("--version", "-V"):
        _print_version()
        sys.exit(DONE)
    if arguments and not arguments[0].startswith("-") and arguments[0] not in COMMANDS:
        known = did_you_mean(arguments[0], COMMANDS)
        _end(USAGE, f"error: no command {arguments[0]!r}{known}; known are {', '.join(COMMANDS)}")
    request = parse(arguments)

    interrupt_on_sigterm()
    try:
        from eigengrad_lab.cli import commands

        outcome = commands.run(request, arguments)
    except UsageError as error:
        _end(USAGE, f"error: {error}")
    except BrokenPipeError:
        raise
    except OSError as error:  # what was asked for is there, but the system does not let us: one line says it all
        where = f"{error.filename}: " if error.filename else ""
        _end(USAGE, f"error: {where}{error.strerror or error}")
    except KeyboardInterrupt:
        _end(INTERRUPTED, "interrupted; the same command goes on from here")
    if outcome is None:
        _end(TIME_IS_UP, "the time is up; the same command goes on from here")
    sys.exit(DONE if outcome else FAILED)


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
    app.command(name="summary")(Summary)
    app.command(name="export")(Export)
    app.command(name="report")(Report)
    codes = "; ".join(f"{code}: {meaning}" for code, meaning in EXIT_CODES.items())
    about = f"The laboratory of eigengrad. --version tells what it computes with. Exit codes: {codes}."
    return app.cli(prog="eigengrad", description=about, args=arguments)


def _print_version() -> None:
    from eigengrad_lab.runs.environment import environment

    here = environment()
    print(f"eigengrad {here['eigengrad']}" + (f" (commit {here['commit']})" if here["commit"] else ""))
    print(f"torch {here['torch']}, python {here['python']}, kernel {here['kernel']}, blas {here['blas']}")


def _end(code: int, message: str) -> None:
    print(message, file=sys.stderr)
    sys.exit(code)
