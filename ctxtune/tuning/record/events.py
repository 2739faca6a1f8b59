"""The events of a journal, and the lines in which they stand.

A line is an event as JSON with a checksum (`ctxtune.checked_lines`). Where such lines begin an event ``format`` stands: lines
before it were written by a ctxtune that knew no checksums, and are taken as they are.

What is promised: an entry or an event that older versions cannot do without raises `FORMAT`, and a version refuses a journal
of a higher one. Every version reads the journals of all earlier ones.
"""

import json
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from ctxtune.checked_lines import DamagedLine, sealed, unsealed
from ctxtune.results.runs import Stage, State
from ctxtune.settings import Settings
from ctxtune.tuning.record.run_spec import RunSpec

FORMAT = 2


class Format(BaseModel):
    """From here on lines have checksums; ``ctxtune`` is the version that writes."""

    model_config = ConfigDict(extra="ignore", frozen=True)
    event: Literal["format"] = "format"
    version: int
    ctxtune: str = ""


class Asked(Settings):
    """A run was decided on; its spec says all that is needed to start it again."""

    event: Literal["asked"] = "asked"
    key: str
    stage: Stage
    spec: RunSpec


class Reported(Settings):
    """A run reported an evaluation; ``epoch`` is among the metrics."""

    event: Literal["reported"] = "reported"
    key: str
    metrics: dict[str, float]


class Checkpointed(Settings):
    """A checkpoint of a run lies on the storage."""

    event: Literal["checkpointed"] = "checkpointed"
    key: str
    path: str


class Ended(Settings):
    """A run came to an end that resuming does not undo."""

    event: Literal["ended"] = "ended"
    key: str
    state: State
    reason: str = ""


class Resumed(Settings):
    """A run that was killed in good order goes on, from its last checkpoint."""

    event: Literal["resumed"] = "resumed"
    key: str


class Decided(Settings):
    """A decision between stages, such as the chosen configuration; a later one of the name takes its place."""

    event: Literal["decided"] = "decided"
    name: str
    value: Any


Event: TypeAlias = Asked | Reported | Checkpointed | Ended | Resumed | Decided
_LINE: TypeAdapter[Event | Format] = TypeAdapter(Annotated[Event | Format, Field(discriminator="event")])
_KINDS = {"format", "asked", "reported", "checkpointed", "ended", "resumed", "decided"}


class ForeignLine(Exception):
    """A line is whole, but this version of ctxtune does not know what it says."""


def encode(event: Event | Format, number: int) -> bytes:
    """The line of an event.

    Args:
        number: of the line in its file, from 1.
    """
    tree = event.model_dump(mode="json")
    return sealed(json.dumps(tree, separators=(",", ":"), allow_nan=False).encode(), number)


def decode(line: bytes, number: int, *, checked: bool) -> Event | Format:
    """The event of a line, without its line break.

    Args:
        checked: whether it must have a checksum.

    Raises:
        DamagedLine, ForeignLine: what is wrong with it, in words.
    """
    line, has_checksum = unsealed(line, number, checked=checked)
    try:
        event = _LINE.validate_json(line)
    except ValidationError as error:
        raise _misread(line, error, checked=has_checksum) from None
    if isinstance(event, Reported) and "epoch" not in event.metrics:
        raise DamagedLine("a report without an epoch")
    if isinstance(event, Format) and not has_checksum:
        raise DamagedLine("it has no checksum")
    if isinstance(event, Format) and event.version > FORMAT:
        raise ForeignLine(f"the journal's format {event.version} of ctxtune {event.ctxtune}; this one reads {FORMAT}")
    return event


def looks_whole(line: bytes) -> bool:
    """Whether a line is likely to be an event, whatever its checksum says."""
    try:
        event = json.loads(line)
    except ValueError:
        return False
    return isinstance(event, dict) and "event" in event


def _misread(line: bytes, error: ValidationError, *, checked: bool) -> DamagedLine | ForeignLine:
    try:
        tree = json.loads(line)
    except ValueError:
        return DamagedLine("it is no JSON")
    kind = tree.get("event") if isinstance(tree, dict) else None
    if not isinstance(kind, str):
        return DamagedLine("it is no event")
    if kind not in _KINDS:  # versions that know more events than this one write checksums
        return ForeignLine(f"an event {kind!r}") if checked else DamagedLine(f"there is no event {kind!r}")
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"][1:])
    told = f"{kind}: {place}: {first['msg']}"
    return ForeignLine(told) if checked or "spec" in first["loc"] else DamagedLine(told)
