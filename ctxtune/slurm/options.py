"""What ``--slurm nodes=4,gpus_per_node=8,time=12:00:00`` asks for: sbatch's own options, checked before anything is written."""

import re
from pathlib import Path
from typing import Annotated

from pydantic import Field, PositiveInt, StringConstraints, ValidationError, field_validator, model_validator

from ctxtune.error_messages import in_words
from ctxtune.errors import ConfigError
from ctxtune.settings import Settings
from ctxtune.text import did_you_mean, shortened

CPUS_PER_GPU = 4
"""Of a node whose CPUs nobody has counted: what Slurm gives by itself, one, would starve a GPU."""
_TIME = re.compile(r"(?:(?P<days>[0-9]+)-)?(?P<clock>[0-9]+(?::[0-9]+){0,2})")
_BETWEEN = re.compile(r",(?![^\[(]*[\])])")
Word = Annotated[str, StringConstraints(pattern=r"^[\w.:/@|&*+\-\[\](),]+$")]


class SlurmOptions(Settings):
    """The options of ``--slurm``; those that sbatch has bear its names."""

    nodes: PositiveInt = Field(1, description="machines; Ray connects several")
    gpus_per_node: str | None = Field(None, description="a number, or TYPE:NUMBER as in a100:4")
    cpus_per_task: PositiveInt | None = Field(None, description="CPU cores of each node; by default 4 for each GPU")
    mem: str | None = Field(None, description="memory of each node, e.g. 64G; 0: all of it")
    time: str | None = Field(None, description="limit, e.g. 12:00:00 or 2-00:00:00; the job goes on in the next one")
    partition: Word | None = None
    account: Word | None = None
    qos: Word | None = None
    constraint: Word | None = None
    reservation: Word | None = None
    exclude: Word | None = Field(None, description="nodes that are not wanted")
    mail_user: Word | None = Field(None, description="who is told of the job's end")
    signal: int = Field(120, ge=30, le=3600, description="seconds before the limit at which the sweep is told to end")
    setup: Path | None = Field(None, description="shell file to read first: module load ..., source .../activate")

    @field_validator("gpus_per_node")
    @classmethod
    def _gpus(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"([A-Za-z][A-Za-z0-9_.-]*:)?[1-9][0-9]{0,3}", value):
            raise ValueError(f"expected a number of GPUs, or TYPE:NUMBER as in a100:4; found {shortened(value)!r}")
        return value

    @field_validator("mem")
    @classmethod
    def _memory(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[0-9]+[KMGT]?", value):
            raise ValueError(f"expected a number with K, M, G or T, as in 64G; found {shortened(value)!r}")
        return value

    @field_validator("time")
    @classmethod
    def _limit(cls, value: str | None) -> str | None:
        if value is not None and not seconds(value):
            raise ValueError(
                f"expected HOURS:MINUTES:SECONDS, DAYS-HOURS:MINUTES:SECONDS or minutes; found {shortened(value)!r}"
            )
        return value

    @field_validator("setup")
    @classmethod
    def _readable(cls, value: Path | None) -> Path | None:
        if value is not None and not value.is_file():
            raise ValueError(f"expected a shell file that is read first; there is no file {value}")
        return value

    @model_validator(mode="after")
    def _time_to_work(self) -> "SlurmOptions":
        if self.time is not None and seconds(self.time) < self.signal + 120:
            raise ValueError(
                f"time={self.time} leaves nothing to work in: a sweep is told to end signal={self.signal} seconds before it, "
                "and takes a minute to start; ask for more time"
            )
        return self

    @property
    def gpus(self) -> int:
        """GPUs of each node."""
        return int(self.gpus_per_node.rpartition(":")[2]) if self.gpus_per_node else 0

    @property
    def cpus(self) -> int:
        """CPU cores of each node."""
        return self.cpus_per_task or CPUS_PER_GPU * max(1, self.gpus)


def seconds(text: str) -> int:
    """A time as Slurm writes it; 0 where it is none.

    >>> seconds("90"), seconds("12:00:00"), seconds("1-12"), seconds("soon")
    (5400, 43200, 129600, 0)
    """
    match = _TIME.fullmatch(text)
    if match is None:
        return 0
    parts = [int(part) for part in match["clock"].split(":")]
    # days-hours[:minutes[:seconds]], hours:minutes:seconds, minutes[:seconds]
    units = (3600, 60, 1) if match["days"] or len(parts) == 3 else (60, 1, 0)
    clock = sum(part * unit for part, unit in zip(parts, units, strict=False))
    return 86400 * int(match["days"] or 0) + clock


def parse_options(text: str) -> SlurmOptions:
    """The options of ``--slurm``.

    Args:
        text: ``NAME=VALUE`` with commas between; ``gpus-per-node`` is ``gpus_per_node``.

    Raises:
        ConfigError: a name is unknown or given twice, or a value is wrong.
    """
    values: dict[str, str] = {}
    for part in filter(None, map(str.strip, _BETWEEN.split(text))):
        name, separator, value = (piece.strip() for piece in part.partition("="))
        name = name.removeprefix("--").replace("-", "_")
        if name not in SlurmOptions.model_fields:
            hint = did_you_mean(name, SlurmOptions.model_fields)
            raise ConfigError(f"--slurm: unknown option {shortened(name)!r}{hint}")
        if not separator or not value:
            raise ConfigError(f"--slurm: {name}: expected {name}=VALUE; found {shortened(part)!r}")
        if name in values:
            raise ConfigError(f"--slurm: {name} is given twice")
        values[name] = value
    try:
        return SlurmOptions.model_validate(values)
    except ValidationError as error:
        location = error.errors()[0]["loc"]
        place = "".join(f"{step}: " for step in location)
        problems = [problem for problem in error.errors() if problem["loc"] == location]
        raise ConfigError(f"--slurm: {place}{in_words(problems)}") from None
