"""Statistics of a whole data set, exact: the same digits for every batch size, worker count and machine.

`ChannelStats` counts in integers and fractions and rounds once, at the end. So nothing depends on the order
in which pixels arrive, two halves add up to the whole, and even the textbook formula Σx²/n − (Σx/n)², which
fails in floating point, is right.

From below: `exact` (sums without rounding error), `counts` (one batch), `items` (which axis is which),
`channels` (`ChannelStats`), `report`, `sources` (where files lie), `folders` (`scan`), `datasets`
(`dataset_stats`).
"""

from ..files import FileError, to_array
from .channels import ChannelStats
from .datasets import dataset_stats
from .exact import Sums
from .folders import scan
from .report import Report
from .sources import image_files

__all__ = ["ChannelStats", "FileError", "Report", "Sums", "dataset_stats", "image_files", "scan", "to_array"]
