"""The samplers of all cells: one for each cell and repeat, all with the same settings and budget."""

import itertools
from collections.abc import Iterable, Iterator

from ctxtune.config import Ablation, Cell, TrialSettings, search_of
from ctxtune.tuning.record.journal import RunRecord
from ctxtune.tuning.search.sampler import Sampler
from ctxtune.tuning.stages import suggestion
from ctxtune.yaml_text import Tree


def search_key(cell: Cell, repeat: int, number: int) -> str:
    """The name of a tuning trial."""
    return f"{cell.key}-repeat{repeat}-trial{number:03d}"


class Searches:
    """Asks and tells the sampler that a trial belongs to."""

    def __init__(self, ablation: Ablation, cells: list[Cell]) -> None:
        tune = ablation.tune_each
        self.cells = cells
        self._metric = ablation.compare.metric
        self._configs = {cell.name: search_of(ablation, cell) for cell in cells} if tune else {}
        self._samplers: dict[tuple[str, int], Sampler] = {}
        self._repeats = tune.repeats if tune else 0
        for repeat in range(self._repeats):
            for cell in cells:
                config = self._configs[cell.name]
                seeded = config.search.sampler.model_copy(update={"seed": config.search.sampler.seed + repeat})
                search = config.search.model_copy(update={"sampler": seeded})
                self._samplers[cell.name, repeat] = Sampler(config.model_copy(update={"search": search}))
        self._owners: dict[str, Sampler] = {}

    def ask(self, cell: Cell, repeat: int, key: str) -> tuple[Tree, TrialSettings] | None:
        """The next point of a cell's search, and its configuration; ``key`` names its run. None: its space is at its end.

        Raises:
            ConfigError: suggestion after suggestion cannot be run.
        """
        sampler, config = self._samplers[cell.name, repeat], self._configs[cell.name]
        suggested = suggestion(config, sampler, key)
        if suggested is not None:
            self._owners[key] = sampler
        return suggested

    def exhausted(self, cell: Cell, repeat: int) -> bool:
        """Whether every point of a cell's finite space was tried."""
        return self._samplers[cell.name, repeat].exhausted

    def round(self, number: int) -> Iterator[tuple[str, bool]]:
        """The names of the trials that a round has, one of every cell and repeat, and whether that space is at its end."""
        for cell, repeat in itertools.product(self.cells, range(self._repeats)):
            yield search_key(cell, repeat, number), self.exhausted(cell, repeat)

    def memory(self, key: str) -> Tree:
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
