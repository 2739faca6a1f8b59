"""What a sweep or an ablation asks of whoever runs its runs: Ray, or a simulation."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from ctxtune.tuning.backend.cluster import RunResources
from ctxtune.tuning.record.recorder import Recorder
from ctxtune.tuning.record.run_spec import RunSpec
from ctxtune.tuning.search.scheduler import Scheduler


@dataclass(frozen=True)
class StageRuns:
    """The runs of a stage, which are settled one at a time.

    Attributes:
        stage: its name.
        next_run: what to start next, asked as late as possible (a sampler learns in between); None: no more.
        scheduler: who stops runs early; None: nobody.
        on_event: called at every event, and once a second at least; it may ask the recorder to stop the stage.
    """

    stage: str
    next_run: Callable[[], RunSpec | None]
    scheduler: Scheduler | None = None
    on_event: Callable[[], object] | None = None


class Executor(Protocol):
    """Who runs what the stages ask for."""

    @property
    def resources(self) -> RunResources:
        """What one run gets, and how many run at a time."""

    def now(self) -> float:
        """Seconds, from any beginning."""

    def run(self, stages: Iterator[StageRuns], recorder: Recorder) -> None:
        """Run stage after stage: the next one is asked for when all runs of the one before have ended.

        A stage ends when it has no more to run, or when the recorder says stop, and then its runs are ended at once; whether
        another one follows, the iterator says, and what it raises is raised here.
        """
