"""Statistics of many shards on a Dask cluster: each task counts one shard, and the counts are added up in a tree.

    python book/examples/stats_dask.py SHARD...

prints the line to paste, the same in every digit as ``normtut stats SHARD...`` gives. `Client()` starts workers
on this machine; ``Client("tcp://scheduler:8786")`` uses those of a cluster.
"""

import operator
import sys

from dask.bag import from_sequence
from distributed import Client

from normtut.statistics import FileError, Report, scan


def count(shard: str) -> Report:
    """What one task sends back: a few kilobytes, whatever the size of the shard."""
    try:
        return scan(shard)
    except FileError as error:  # not one image could be counted
        return Report(skipped=[error])


def main(shards: list[str], client: Client) -> Report:
    """What has been counted of all shards, and what was skipped."""
    tasks = from_sequence(shards, npartitions=len(shards)).map(count)
    return tasks.fold(operator.add).compute(scheduler=client)


if __name__ == "__main__":
    with Client(n_workers=2, threads_per_worker=1, dashboard_address=None) as client:
        report = main(sys.argv[1:], client)
    print(report.stats, *report.warnings(), sep="\n")
