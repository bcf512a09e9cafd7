"""The error of a command that is told to the user in a sentence, without a traceback."""

from __future__ import annotations


class CommandError(Exception):
    """Says what the user has to change. The command has changed nothing."""
