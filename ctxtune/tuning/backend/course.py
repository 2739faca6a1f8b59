"""Where a sweep is in its stages while Ray Tune runs: one run of Tune goes on from stage to stage."""

from collections.abc import Iterator, Sequence

from ray.tune.experiment import Trial

from ctxtune.tuning.executor import StageRuns
from ctxtune.tuning.record.journal import RunRecord
from ctxtune.tuning.record.recorder import Recorder
from ctxtune.tuning.record.run_spec import RunSpec


class Course:
    """The present stage of many, and the way to the next.

    Tune asks for runs from within its own loop, where an error of ours would be taken for one of its searcher's. So what the
    stages raise is kept there, and raised when Tune has come to its end.
    """

    def __init__(self, stages: Iterator[StageRuns], recorder: Recorder) -> None:
        self.recorder = recorder
        self.trials: Sequence[Trial] = ()
        """Tune's own, of its present run; the newest last."""
        self._stages = stages
        self._current: StageRuns | None = None
        self._error: Exception | None = None

    @property
    def current(self) -> StageRuns | None:
        """The present stage; None after the last."""
        return self._current

    def advance(self) -> None:
        """Go on to the next stage. Raises what the stages raise."""
        self._current = next(self._stages, None)

    def tune_is_busy(self) -> bool:
        """Whether Tune has a trial that has not ended."""
        return any(not trial.is_finished() for trial in reversed(self.trials))

    def next_run(self) -> RunSpec | None:
        """What to start now: of the present stage or, when all its runs have ended, of the next that has any; None: nothing."""
        try:
            while self._current is not None:
                spec = self._current.next_run()
                if spec is not None or self.recorder.stop or unfinished(self.recorder):
                    return spec
                self.advance()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is raised outside of Tune
            self._error, self._current = error, None
        return None

    def look(self) -> None:
        """Let the present stage look at what has happened, and ask for its end."""
        if self._current is not None and self._current.on_event is not None and not self.recorder.stop:
            self._current.on_event()

    def raise_error(self) -> None:
        """Raise what the stages have raised in Tune's loop, if they have."""
        if self._error is not None:
            raise self._error


def unfinished(recorder: Recorder) -> list[RunRecord]:
    """The runs that were started and have not ended."""
    return [run for run in recorder.journal.runs.values() if run.state == "running"]
