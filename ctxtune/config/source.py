"""Reading YAML so that every later complaint can name file, line and key."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ctxtune.config.paths import Location, did_you_mean, find_key, format_path
from ctxtune.errors import ConfigError, no_such_file

_ENVIRONMENT = re.compile(r"\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}")
_FLOAT = re.compile(r"^[-+]?(\d[\d_]*(\.[\d_]*)?|\.\d+)[eE][-+]?\d+$")


class _Loader(yaml.SafeLoader):
    """The safe loader, with YAML 1.2's reading of 1e-5 as a number (YAML 1.1 reads a string)."""


_Loader.yaml_implicit_resolvers = {key: list(value) for key, value in yaml.SafeLoader.yaml_implicit_resolvers.items()}
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


@dataclass
class Source:
    """A parsed file: its plain data, and where each key stands.

    ``origins`` maps a location (a tuple of keys and indices) to the words that name its place: ``cars.yaml:12`` or
    ``--set trial.loss.k=3``.
    """

    path: Path
    data: dict[str, Any]
    origins: dict[Location, str] = field(default_factory=dict)

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


def parse_value(text: str) -> Any:
    """Read one YAML value, as in ``--set key=VALUE``.

    >>> parse_value("[1, 2e-3, null]")
    [1, 0.002, None]
    """
    return yaml.load(text, Loader=_Loader)


def read_source(path: Path | str) -> Source:
    """Parse a YAML file into plain data, with duplicate keys refused and the environment filled in.

    Raises:
        ConfigError: the file is missing, unreadable, not YAML, not a mapping, or names an unset variable.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise no_such_file(path) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if not isinstance(node, yaml.MappingNode):
            raise ConfigError(f"{path}: expected a mapping of keys such as `name:` and `trial:` at the top")
        source = Source(path, {}, {(): str(path)})
        _note_lines(node, (), source)
        source.data = loader.construct_document(node)
    except yaml.YAMLError as error:
        raise ConfigError(_yaml_message(path, error)) from None
    finally:
        loader.dispose()
    source.data = _expand_environment(source.data, (), source)
    return source


def apply_overrides(
    source: Source,
    overrides: Iterable[str],
    blocks: Sequence[Location] = (),
    removable: Mapping[Location, Location] | None = None,
) -> None:
    """Set ``a.b=value`` leaves in place, paths counted from the file's root.

    Args:
        source: the parsed file.
        overrides: texts such as ``trial.loss.k=8``; the value is YAML.
        blocks: locations whose keys are dotted paths themselves (``search.space``).
        removable: blocks where null takes a key out, with the block whose key that is: most often the same.

    Raises:
        ConfigError: an override without ``=``, a path through something that is no mapping, or one that takes out what is
            not there.
    """
    for text in overrides:
        key, separator, value = text.partition("=")
        if not separator or not key.strip():
            raise ConfigError(f"--set {text}: expected KEY=VALUE, for example --set trial.loss.k=8")
        try:
            parsed = parse_value(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {text}: the value is not YAML: {error}") from None
        _set(source, key.strip().split("."), parsed, f"--set {text}", blocks, removable or {})


def _check_removed(source: Source, location: Location, origin: str, removable: Mapping[Location, Location]) -> None:
    """What null takes out must be there: in its block, or in the one that this one alters."""
    block, key = location[:-1], location[-1]
    if block not in removable:
        return
    known = {str(name): None for place in (block, removable[block]) for name in _keys_at(source.data, place)}
    if key not in known:
        there = did_you_mean(str(key), known) or "; it is empty"
        raise ConfigError(f"{origin}: null takes out a key, and {format_path(removable[block])} has no {key}{there}")


def _keys_at(data: Any, location: Location) -> list[Any]:
    for part in location:
        data = data.get(part) if isinstance(data, dict) else None
    return list(data) if isinstance(data, dict) else []


def _set(
    source: Source,
    parts: list[str],
    value: Any,
    origin: str,
    blocks: Sequence[Location],
    removable: Mapping[Location, Location],
) -> None:
    node: Any = source.data
    location: Location = ()
    while True:
        if isinstance(node, list):
            if not parts[0].isdigit() or int(parts[0]) >= len(node):
                raise ConfigError(f"{origin}: {format_path(location)} is a list of {len(node)}; name an index below it")
            key: str | int = int(parts[0])
            used = 1
        elif isinstance(node, dict):
            key, used = find_key(node, parts, dotted=location in blocks)
        else:
            raise ConfigError(f"{origin}: {format_path(location)} is {node!r}, not a block with keys")
        location, parts = (*location, key), parts[used:]
        if not parts:
            if value is None:
                _check_removed(source, location, origin, removable)
            node[key] = value
            for old in [known for known in source.origins if known[: len(location)] == location]:
                del source.origins[old]
            source.origins[location] = origin
            return
        if isinstance(node, dict) and node.get(key) is None:
            node[key] = {}
        node = node[key]


def _note_lines(node: yaml.Node, location: Location, source: Source) -> None:
    if isinstance(node, yaml.MappingNode):
        seen: dict[Any, int] = {}
        for key_node, value_node in node.value:
            key, line = key_node.value, key_node.start_mark.line + 1
            if key in seen and key != "<<":
                raise ConfigError(
                    f"{source.path}:{line}: {format_path((*location, key))}: "
                    f"the key stands twice (first in line {seen[key]}); keep one"
                )
            seen[key] = line
            source.origins[(*location, key)] = f"{source.path}:{line}"
            _note_lines(value_node, (*location, key), source)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            source.origins[(*location, index)] = f"{source.path}:{item.start_mark.line + 1}"
            _note_lines(item, (*location, index), source)


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

    return _ENVIRONMENT.sub(fill, value)


def _yaml_message(path: Path, error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    where = f"{path}:{mark.line + 1}" if mark else str(path)
    return f"{where}: not valid YAML: {getattr(error, 'problem', None) or error}"
