"""Statistics of many shards on a Ray cluster: each task counts one shard, and the counts are added up in a tree.

    python book/examples/stats_ray.py SHARD...

prints the line to paste, the same in every digit as ``normtut stats SHARD...`` gives. ``ray.init()`` starts
workers on this machine, or joins the cluster that ``RAY_ADDRESS`` names.
"""

import sys

import ray

from normtut.statistics import FileError, Report, scan


@ray.remote
def add(a: Report, b: Report) -> Report:
    """One node of the tree."""
    return a + b


@ray.remote
def count(shard: str) -> Report:
    """What one task sends back: a few kilobytes, whatever the size of the shard."""
    try:
        return scan(shard)
    except FileError as error:  # not one image could be counted
        return Report(skipped=[error])


def main(shards: list[str]) -> Report:
    """What has been counted of all shards, and what was skipped."""
    reports = [count.remote(shard) for shard in shards]
    while len(reports) > 1:
        pairs = zip(reports[::2], reports[1::2], strict=False)
        reports = [add.remote(a, b) for a, b in pairs] + reports[len(reports) // 2 * 2 :]
    return ray.get(reports[0])


if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    report = main(sys.argv[1:])
    ray.shutdown()
    print(report.stats, *report.warnings(), sep="\n")
