"""What a process needs to start a run, as plain data that travels through Ray and lies in the journal."""

from pydantic import BaseModel

from ctxtune.config import TrialSettings
from ctxtune.data import ValidationSettings
from ctxtune.results.runs import Stage
from ctxtune.settings import Settings
from ctxtune.yaml_text import Tree


class RunSpec(Settings):
    """One run of a sweep or an ablation.

    Attributes:
        key: its name within the sweep, such as ``trial-0007``.
        arm: which configuration it belongs to: the trial's key, ``start``, or an ablation's cell.
        point: the searched values.
        folds: validation folds to train on and score; none for a run on all train classes, which scores the test
            classes.
        concatenated: the folds' models are scored on the test classes, once, by their concatenated embeddings.
        seed_index: which repetition; arms with the same index share all randomness.
        seed: from `ctxtune.config.stage_seed`.
        tags: more of them, for tracking.
        shown_queries: for so many queries the run keeps what it retrieves at last, with pictures.
        memory: what the sampler must know again of this suggestion after a restart.
    """

    key: str
    stage: Stage
    arm: str
    point: Tree
    trial: TrialSettings
    validation: ValidationSettings
    folds: tuple[int, ...]
    concatenated: bool = False
    seed_index: int
    seed: int
    tags: dict[str, str] = {}
    shown_queries: int = 0
    memory: Tree = {}

    @property
    def scores_test(self) -> bool:
        """Whether it scores the test classes, once, at its end."""
        return not self.folds or self.concatenated


class SharedBlocks:
    """Equal blocks of the configurations of many runs as one object: runs of a sweep differ in a few settings only.

    Equal is what has the same JSON, which is how the journal holds it.
    """

    def __init__(self) -> None:
        self._latest: dict[tuple[str, ...], tuple[str, BaseModel]] = {}
        self._names: dict[frozenset[str], set[str]] = {}

    def share(self, model: BaseModel, path: tuple[str, ...] = ()) -> None:
        """Give a spec those blocks that the one before it had, too, in place of its own."""
        # Nothing that can be seen of the model changes, so it need not be copied, which would take memory itself.
        names = model.model_fields_set
        object.__setattr__(model, "__pydantic_fields_set__", self._names.setdefault(frozenset(names), names))
        for name, block in model:
            if isinstance(block, BaseModel):
                model.__dict__[name] = self._known(block, (*path, name))

    def _known(self, block: BaseModel, path: tuple[str, ...]) -> BaseModel:
        text = block.model_dump_json()
        latest = self._latest.get(path)
        if latest is not None and latest[0] == text and type(latest[1]) is type(block):
            return latest[1]
        self.share(block, path)
        self._latest[path] = text, block
        return block
