"""The command line: ``python -m sgdr_fused``, and the script ``sgdr-fused``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from . import bench, convert, doctor, plot
from .errors import CommandError

COMMANDS = {"doctor": doctor, "plot": plot, "bench": bench, "convert": convert}


def parser() -> argparse.ArgumentParser:
    """The parser of all commands. The first line of a command's module is its help."""
    whole = argparse.ArgumentParser(prog="sgdr-fused", description="Looks after fused optimizers and their schedules.")
    commands = whole.add_subparsers(title="commands", dest="command", required=True, metavar="COMMAND")
    for name, module in COMMANDS.items():
        first_line, _, rest = (module.__doc__ or "").partition("\n")
        command = commands.add_parser(name, help=first_line, description=f"{first_line}\n{rest}".strip())
        command.formatter_class = argparse.RawDescriptionHelpFormatter
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return whole


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        arguments: what follows the program's name; None takes ``sys.argv``.

    Returns:
        the exit status: 0; 1 for a self-test that failed; 2 for arguments or files that a command cannot use, as
        argparse has it.
    """
    given = parser().parse_args(arguments)
    try:
        status: int = given.run(given)
        sys.stdout.flush()
    except CommandError as error:
        print(f"sgdr-fused {given.command}: error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # such as `| head`, which has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more at its end
        return 1
    return status
