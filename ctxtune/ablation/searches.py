"""The samplers of all cells: one for each cell and repeat, all with the same settings and budget."""

from collections.abc import Iterable
from typing import Any

from ctxtune.config import Ablation, Cell, TrialSettings, search_of
from ctxtune.tuning.record.journal import RunRecord
from ctxtune.tuning.search.sampler import Sampler
from ctxtune.tuning.stages import suggestion


class Searches:
    """Asks and tells the sampler that a trial belongs to."""

    def __init__(self, ablation: Ablation, cells: list[Cell]) -> None:
        tune = ablation.tune_each
        self.cells = cells
        self._metric = ablation.compare.metric
        self._configs = {cell.name: search_of(ablation, cell) for cell in cells} if tune else {}
        self._samplers: dict[tuple[str, int], Sampler] = {}
        for repeat in range(tune.repeats if tune else 0):
            for cell in cells:
                config = self._configs[cell.name]
                seeded = config.search.sampler.model_copy(update={"seed": config.search.sampler.seed + repeat})
                search = config.search.model_copy(update={"sampler": seeded})
                self._samplers[cell.name, repeat] = Sampler(config.model_copy(update={"search": search}))
        self._owners: dict[str, Sampler] = {}

    def ask(self, cell: Cell, repeat: int, key: str) -> tuple[dict[str, Any], TrialSettings] | None:
        """The next point of a cell's search, and its configuration; ``key`` names its run. None: its space is at its end.

        Raises:
            ConfigError: suggestion after suggestion cannot be run.
        """
        sampler, config = self._samplers[cell.name, repeat], self._configs[cell.name]
        suggested = suggestion(config, sampler, key)
        if suggested is not None:
            self._owners[key] = sampler
        return suggested

    def memory(self, key: str) -> dict[str, Any]:
        """What the sampler must know again of an open suggestion after a restart."""
        return self._owners[key].memory(key)

    def report(self, key: str, epoch: int, score: float) -> None:
        """A trial has a score on the way."""
        self._owners[key].report(key, epoch, score)

    def tell(self, key: str, state: str, score: float | None) -> None:
        """A trial came to its end."""
        self._owners[key].tell(key, state, score)

    def replay(self, runs: Iterable[RunRecord]) -> None:
        """Take in the trials of an earlier process, in their order."""
        for run in runs:
            tags = run.spec.tags
            sampler = self._samplers[tags["cell"], int(tags["repeat"])]
            sampler.replay([run], self._metric)
            self._owners[run.key] = sampler
