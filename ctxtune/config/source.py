"""Reading YAML so that every later complaint can name file, line and key."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ctxtune.config.paths import Location, find_key, format_path
from ctxtune.error_messages import shown_value
from ctxtune.errors import ConfigError
from ctxtune.redaction import redact_argument
from ctxtune.text import did_you_mean, shortened
from ctxtune.yaml_text import Tree, YamlError, check_plain_text, file_text, read_yaml

_ENVIRONMENT = re.compile(r"\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}")
MOST_PARTS = 20
"""Keys in the path of an override."""


@dataclass(frozen=True)
class Override:
    """A leaf that the command line sets.

    Attributes:
        path: dotted, from the file's root.
        value: plain data.
        origin: the words of the command line that set it, for messages.
        written: as in `Source`, counted from the value.
    """

    path: str
    value: Any
    origin: str
    written: Mapping[Location, str] = field(default_factory=dict)


@dataclass
class Source:
    """A parsed file: its plain data, and where each key stands.

    ``origins`` maps a location (a tuple of keys and indices) to the words that name its place: ``cars.yaml:12`` or
    ``--set trial.loss.k=3``. ``written`` has values that are no text as they are written (``no``, ``1_000``).
    """

    path: Path
    data: Tree
    origins: dict[Location, str] = field(default_factory=dict)
    written: dict[Location, str] = field(default_factory=dict)

    def origin(self, location: Location) -> str:
        """The place of ``location``, or of the nearest block around it that the user wrote."""
        for end in range(len(location), -1, -1):
            if location[:end] in self.origins:
                return self.origins[location[:end]]
        return str(self.path)

    def error(self, location: Location, message: str) -> ConfigError:
        """A `ConfigError` that names the place and the key before the message."""
        key = f"{format_path(location)}: " if location else ""
        return ConfigError(f"{self.origin(location)}: {key}{message}")


def read_source(path: Path | str) -> Source:
    """Parse a YAML file into plain data, with duplicate keys refused and the environment filled in.

    Raises:
        ConfigError: the file is missing, unreadable, not YAML, not a mapping, or names an unset variable.
    """
    path = Path(path)
    try:
        found = read_yaml(file_text(path))
    except YamlError as error:
        where = f"{path}:{error.line}" if error.line else str(path)
        key = f"{format_path(error.place)}: " if error.place else ""
        raise ConfigError(f"{where}: {key}{error.reason}") from None
    if not isinstance(found.data, dict):
        raise ConfigError(f"{path}: expected a mapping of keys such as `name:` and `trial:` at the top")
    origins = {place: f"{path}:{line}" for place, line in found.lines.items()}
    source = Source(path, found.data, {**origins, (): str(path)}, found.written)
    source.data = _expand_environment(source.data, (), source)
    return source


def read_overrides(overrides: Iterable[str | Override]) -> list[Override]:
    """``a.b=value`` texts, their values YAML, as overrides; what is one already stays.

    Raises:
        ConfigError: a text without ``=``, with a path that cannot be, or a value that is not YAML.
    """
    return [_read_override(each) if isinstance(each, str) else each for each in overrides]


def _read_override(text: str) -> Override:
    origin = f"--set {shortened(redact_argument(text))}"
    key, separator, value = text.partition("=")
    parts = [part.strip() for part in key.split(".")]
    if not separator or not key.strip():
        raise ConfigError(f"{origin}: expected KEY=VALUE, for example --set trial.loss.k=8")
    if not all(parts) or len(parts) > MOST_PARTS:
        raise ConfigError(f"{origin}: the key is a path such as trial.loss.k, of at most {MOST_PARTS} parts")
    try:
        found = read_yaml(value)
        return Override(".".join(parts), found.data, origin, found.written)
    except YamlError as error:
        raise ConfigError(f"{origin}: {error.reason}") from None


def apply_overrides(
    source: Source,
    overrides: Iterable[str | Override],
    blocks: Sequence[Location] = (),
    removable: Mapping[Location, Location] | None = None,
) -> None:
    """Set ``a.b=value`` leaves in place, paths counted from the file's root.

    Args:
        source: the parsed file.
        overrides: texts such as ``trial.loss.k=8``, or values that need no reading.
        blocks: locations whose keys are dotted paths themselves (``search.space``).
        removable: blocks where null takes a key out, with the block whose key that is: most often the same.

    Raises:
        ConfigError: an override without ``=``, a path through something that is no mapping, or one that takes out what is
            not there.
    """
    for override in read_overrides(overrides):
        _set(source, override, blocks, removable or {})


def _check_removed(source: Source, location: Location, origin: str, removable: Mapping[Location, Location]) -> None:
    """What null takes out must be there: in its block, or in the one that this one alters."""
    block, key = location[:-1], location[-1]
    if block not in removable:
        return
    known = {str(name): None for place in (block, removable[block]) for name in _keys_at(source.data, place)}
    if key not in known:
        there = did_you_mean(str(key), known) if known else "; it is empty"
        raise ConfigError(f"{origin}: null takes out a key, and {format_path(removable[block])} has no {key}{there}")


def _keys_at(data: object, location: Location) -> list[object]:
    for part in location:
        data = data.get(part) if isinstance(data, dict) else None
    return list(data) if isinstance(data, dict) else []


def _set(
    source: Source, override: Override, blocks: Sequence[Location], removable: Mapping[Location, Location]
) -> None:
    parts, value, origin = override.path.split("."), override.value, override.origin
    node: Any = source.data
    location: Location = ()
    while True:
        if isinstance(node, list):
            key: str | int = _index(parts[0], node, f"{origin}: {format_path(location)}")
            used = 1
        elif isinstance(node, dict):
            key, used = find_key(node, parts, dotted=location in blocks)
        else:
            found = shown_value(node, secret=location[:1] == ("notify",))
            raise ConfigError(f"{origin}: {format_path(location)} is {found}, not a block with keys")
        location, parts = (*location, key), parts[used:]
        if not parts:
            if value is None:
                _check_removed(source, location, origin, removable)
            node[key] = value
            for known in (source.origins, source.written):
                for old in [place for place in known if place[: len(location)] == location]:
                    del known[old]
            source.origins[location] = origin
            source.written.update({(*location, *place): text for place, text in override.written.items()})
            return
        if isinstance(node, dict) and node.get(key) is None:
            node[key] = {}
        node = node[key]


def _index(text: str, values: list[object], where: str) -> int:
    known = {str(index): index for index in range(len(values))}
    if text not in known:
        raise ConfigError(f"{where} is a list of {len(values)}; name one of its positions, from 0 on")
    return known[text]


def _expand_environment(value: Any, location: Location, source: Source) -> Any:
    if isinstance(value, Mapping):
        return {key: _expand_environment(item, (*location, key), source) for key, item in value.items()}
    if isinstance(value, list):
        return [_expand_environment(item, (*location, index), source) for index, item in enumerate(value)]
    if not isinstance(value, str):
        return value

    def fill(match: re.Match[str]) -> str:
        found = os.environ.get(match["name"]) or match["default"]
        if found is None:
            raise source.error(
                location, f"the environment variable {match['name']} is not set; set it, or write a default: "
                f"${{{match['name']}:-VALUE}}"
            )  # fmt: skip
        return found

    # Beyond the last brace nothing matches, and looking for it from each of many beginnings would take long.
    end = value.rfind("}") + 1
    return _filled(_ENVIRONMENT.sub(fill, value[:end]) + value[end:], source, location)


def _filled(text: str, source: Source, location: Location) -> str:
    """The text of a variable's value. Raises ConfigError for one that no later step can take."""
    try:
        check_plain_text(text)
    except YamlError as error:
        raise source.error(location, f"what the environment fills in: {error.reason}") from None
    return text
