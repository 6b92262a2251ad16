"""`normtut.book.experiments`, by the name that chapters and homework use."""

import sys

from normtut.book import experiments
from normtut.book.experiments import *  # noqa: F403  # type checkers look here

if __name__ == "__main__":
    experiments.main()

sys.modules[__name__] = experiments
