"""The ``normtut`` command: ``normtut stats``, ``normtut stylize``; ``python -m normtut`` too."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from contextlib import suppress

import normtut
from normtut.cli import stats, stylize

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    try:
        try:
            return _main(argv)
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()  # while a broken pipe can still be caught
    except OSError as error:  # of what was printed: nobody reads it any more, or the disk is full
        with suppress(OSError):
            # The interpreter flushes once more as it ends; what is left must not fail again.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return 128 + 13  # what a shell reports of a command that SIGPIPE has ended
        print(f"normtut: the output could not be written: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # while torch is imported, which takes seconds
        print("normtut: interrupted", file=sys.stderr)
        return 128 + 2


def _main(argv: Sequence[str] | None) -> int:
    # A file name need not be text, nor a terminal know "×": neither may cost the result of a long run.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what has replaced it may be anything
            stream.reconfigure(errors="backslashreplace")
    parser = argparse.ArgumentParser(prog="normtut", description="Normalization, its inverse and its uses.")
    parser.add_argument("--version", action="version", version=f"normtut {normtut.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    stats.add_parser(commands)
    stylize.add_parser(commands)
    args = parser.parse_args(argv)
    status: int = args.run(args)
    return status
