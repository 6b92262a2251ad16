"""The command ``normtut`` with its subcommands; ``python -m normtut`` too."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from contextlib import suppress

import normtut
from normtut.cli import homework, stats, stylize

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    try:
        try:
            return _main(argv)
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()  # here, where an error can still be caught
    except OSError as error:  # while printing: the reader has gone, or the disk is full
        with suppress(OSError):
            # Python flushes once more at exit. What is left goes to the null device, where that cannot fail.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return 128 + 13  # what a shell reports of a command that SIGPIPE has ended
        print(f"normtut: the output could not be written: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # while torch is imported, which takes seconds
        print("normtut: interrupted", file=sys.stderr)
        return 128 + 2


def _main(argv: Sequence[str] | None) -> int:
    # Names of files may hold bytes that are no text, and a terminal may lack "×". Print escapes then: the
    # result of a long run must not be lost to an encoding error.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a program may have replaced it by something else
            stream.reconfigure(errors="backslashreplace")
    parser = argparse.ArgumentParser(prog="normtut", description="Normalization, its inverse and its uses.")
    parser.add_argument("--version", action="version", version=f"normtut {normtut.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    stats.add_parser(commands)
    stylize.add_parser(commands)
    homework.add_parser(commands)
    args = parser.parse_args(argv)
    status: int = args.run(args)
    return status
