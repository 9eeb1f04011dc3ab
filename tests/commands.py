"""A command of the laboratory in this process, which has imported everything already."""

import pytest

from eigengrad_lab.__main__ import main


def here(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a command that does all it should prints."""
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 0, exit_.value.code
    return capsys.readouterr().out


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[object, str]:
    """The exit code of one that does not, and what it says of what went wrong."""
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    return exit_.value.code, capsys.readouterr().err
