"""`normtut.book.plots`, by the name that chapters and homework use."""

import sys

from normtut.book import plots
from normtut.book.plots import *  # noqa: F403  # type checkers look here

sys.modules[__name__] = plots
