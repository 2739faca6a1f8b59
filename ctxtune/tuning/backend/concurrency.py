"""How many runs are under way at a time, on a cluster that may grow while the sweep lasts."""

import time
from collections.abc import Callable

from ctxtune.tuning.backend.cluster import RunResources, alive_nodes

LOOK_SECONDS = 5.0


def runs_that_fit(resources: RunResources) -> int:
    """How many runs the nodes that are up now hold at a time."""
    return sum(node.runs(resources.cpus, resources.gpus) for node in alive_nodes())


class Concurrency:
    """The most runs at a time; asked before each new one.

    A number in the search space stays that number. With ``auto`` nodes that join later count too. Where nobody can say
    how far the cluster may grow (KubeRay keeps that to itself), as many runs again as fit now are handed to Ray: an
    autoscaler starts nodes only for what waits, and so doubles the cluster until it is at its end.

    Args:
        resources: what one run needs, and the most at the start.
        fitting: how many runs fit at this moment.
    """

    def __init__(self, resources: RunResources, fitting: Callable[[RunResources], int] = runs_that_fit) -> None:
        self._resources, self._fitting = resources, fitting
        self._limit, self._looked_at = resources.concurrent, float("-inf")

    @property
    def limit(self) -> int:
        """The most runs at a time, as of a few seconds ago."""
        if self._resources.follows and time.monotonic() - self._looked_at >= LOOK_SECONDS:
            self._looked_at = time.monotonic()
            fitting = self._fitting(self._resources)
            self._limit = max(self._resources.concurrent, fitting * (2 if self._resources.may_grow else 1))
        return self._limit
