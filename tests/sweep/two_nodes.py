"""A Ray cluster of two nodes on this machine."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

TRIES = 4
"""Ray gives a node 30 s to begin, which is little where a machine has other work."""


@contextmanager
def two_nodes(processors: int = 1) -> Iterator[Any]:
    """A cluster whose two nodes have so many processors each; its `address` is what connects to it."""
    import ray
    from ray.cluster_utils import Cluster

    for left in reversed(range(TRIES)):
        cluster = Cluster(shutdown_at_exit=False)
        try:
            cluster.add_node(num_cpus=processors, include_dashboard=False, object_store_memory=200 * 2**20)
            cluster.add_node(num_cpus=processors, object_store_memory=200 * 2**20)
            break
        except Exception:  # Ray raises nothing narrower
            with suppress(Exception):
                cluster.shutdown()
            if not left:
                raise
    try:
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()
