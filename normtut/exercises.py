"""`normtut.book.exercises`, by the name that chapters and homework use."""

import sys

from normtut.book import exercises
from normtut.book.exercises import *  # noqa: F403  # type checkers look here

sys.modules[__name__] = exercises
