"""Text of a YAML file or of one value as plain data: bounded in size, and every fault told with its line.

PyYAML parses and resolves; the data is made here, because PyYAML's own constructors raise errors of many kinds (for
``2026-25-11``, ``0x_``, numbers of 5,000 digits), follow an anchor inside itself, and expand aliases without a bound.
What YAML 1.1 reads in a way that nobody expects (``0200`` is 128, ``1:30`` is 90, dates) is refused with a word.
"""

import codecs
import math
import os
import re
import select
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from ctxtune.errors import ConfigError, no_such_file
from ctxtune.text import shortened

PIPE_SECONDS = 5.0
MOST_CHARACTERS = 250_000
"""Of a whole text: a hundred times what the largest of the shipped files has, and seconds for PyYAML."""
MOST_VALUES = 10_000
"""Of a whole text, aliases written out."""
MOST_NESTED = 40
"""Blocks and lists inside each other."""
LONGEST_TEXT = 10_000
"""Characters of one value."""
LONGEST_NUMBER = 100
"""Characters of one number as it is written."""
LARGEST_INTEGER = 2**63 - 1

Place: TypeAlias = tuple[str | int, ...]
"""Keys and list positions from the top of the text down."""

_PREFIX = "tag:yaml.org,2002:"
_FLOAT = re.compile(r"^[-+]?(\d[\d_]*(\.[\d_]*)?|\.\d+)[eE][-+]?\d+$", re.ASCII)
_TRUE, _FALSE = {"yes", "true", "on"}, {"no", "false", "off"}
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufffe\uffff]")
_KEY = re.compile(r"\s*(?:- )?([\w.-]+):")
_PLACEHOLDER = re.compile(r"\{\{|\{%")


Tree: TypeAlias = dict[str, Any]
"""A mapping as YAML or JSON holds it: plain values, lists and further mappings by name."""


class YamlError(Exception):
    """A text that cannot be read.

    Attributes:
        reason: what was found and what would be right.
        line: counted from 1; None where it is not known.
        place: keys and positions down to the value.
    """

    def __init__(self, reason: str, line: int | None = None, place: Place = ()) -> None:
        super().__init__(reason)
        self.reason, self.line, self.place = reason, line, place


@dataclass
class YamlText:
    """What a text holds.

    Attributes:
        data: None, bool, int, float, str, lists, and dicts with text as keys.
        lines: the line of each value, counted from 1, by its place; of a block's value the line of its key.
        written: plain scalars that are no text, as they are written (``no``, ``1_000``), by place.
    """

    data: Any
    lines: dict[Place, int] = field(default_factory=dict)
    written: dict[Place, str] = field(default_factory=dict)


def file_text(path: Path) -> str:
    """The text of a file of settings, however large or endless it is.

    Raises:
        ConfigError: it is missing, cannot be read, is too large, or no text in UTF-8.
    """
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            if not select.select([file], [], [], PIPE_SECONDS)[0]:
                raise ConfigError(f"{path}: a pipe that nobody writes to")
            os.set_blocking(file.fileno(), True)
            content = file.read(MOST_CHARACTERS + 1)
    except FileNotFoundError:
        raise no_such_file(path) from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(content) > MOST_CHARACTERS:
        raise ConfigError(f"{path}: more than {MOST_CHARACTERS // 1000} kB: this is no file of settings")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise ConfigError(f"{path}: not a text in UTF-8 but in UTF-16; save it as UTF-8") from None
        line = 1 + content.count(b"\n", 0, error.start)
        raise ConfigError(f"{path}:{line}: not a text in UTF-8 ({error.reason}); save it as UTF-8") from None


def _without_waiting(path: str, flags: int) -> int:
    """Opens a pipe too where nobody writes to it (yet)."""
    return os.open(path, flags | os.O_NONBLOCK)


def read_yaml(text: str) -> YamlText:
    """Read a text that holds one YAML document.

    Raises:
        YamlError: it is no YAML, too large, or holds what is no plain data.
    """
    if len(text) > MOST_CHARACTERS:
        raise YamlError(f"{len(text):,} characters are too many; settings have {MOST_CHARACTERS:,} at most")
    if found := _CONTROL.search(text):
        before = text[: found.start()]
        key = _KEY.match(before.rpartition("\n")[2])
        raise YamlError(_control_character(text, found), 1 + before.count("\n"), (key[1],) if key else ())
    loader = None
    try:
        loader = _Composer(text)
        node = loader.get_single_node()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = None if mark is None else mark.line + 1
        raise YamlError(
            f"not valid YAML: {getattr(error, 'problem', None) or error}{_hint(text, line)}", line
        ) from None
    except (ValueError, ArithmeticError, LookupError, TypeError, AttributeError) as error:
        # PyYAML's scanner lets Python's own errors through: for "\UFFFFFFFF", or a %YAML of 5,000 digits.
        line = None if loader is None else loader.get_mark().line + 1
        raise YamlError(
            f"not valid YAML: an escape or a number that cannot be ({shortened(str(error))})", line
        ) from None
    finally:
        if loader is not None:
            loader.dispose()
    found_text = YamlText(None)
    if node is not None:
        found_text.data = _Builder(text, found_text).value(node, ())
    return found_text


def parse_value(text: str) -> Any:
    """Read one YAML value, as in ``--set key=VALUE``.

    >>> parse_value("[1, 2e-3, null]")
    [1, 0.002, None]

    Raises:
        YamlError: as `read_yaml`.
    """
    return read_yaml(text).data


def write_yaml(data: object) -> str:
    """Plain data as YAML that `read_yaml` reads back as it was.

    >>> write_yaml({"name": "1e5"})
    "name: '1e5'\\n"
    """
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


class _Dumper(yaml.SafeDumper):
    """PyYAML's, which puts in quotes what is a number to this module too; nothing is written as an alias."""

    def ignore_aliases(self, data: object) -> bool:
        """Always."""
        return True


def quoted(written: str) -> str:
    """A scalar in quotes, as advice to write it so.

    >>> quoted("0200")
    'put it in quotes: "0200"'
    """
    return f'put it in quotes: "{shortened(written)}"'


class _Composer(  # type: ignore[misc]
    yaml.reader.Reader,
    yaml.scanner.Scanner,
    yaml.parser.Parser,
    yaml.composer.Composer,
    yaml.resolver.Resolver,
):
    """PyYAML up to its nodes, with a bound on how deep they lie, and YAML 1.2's reading of 1e-5 as a number."""

    def __init__(self, text: str) -> None:
        yaml.reader.Reader.__init__(self, text)
        yaml.scanner.Scanner.__init__(self)
        yaml.parser.Parser.__init__(self)
        yaml.composer.Composer.__init__(self)
        yaml.resolver.Resolver.__init__(self)
        self._depth = self._count = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """As the composer does; more than `MOST_NESTED` in each other or `MOST_VALUES` in all are refused."""
        self._depth += 1
        self._count += 1
        line = self.peek_event().start_mark.line + 1
        if self._depth > MOST_NESTED:
            raise YamlError(f"more than {MOST_NESTED} blocks and lists inside each other", line)
        if self._count > 2 * MOST_VALUES:  # keys are nodes, too
            raise YamlError(f"more than {MOST_VALUES:,} values", line)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


_Composer.yaml_implicit_resolvers = {
    key: list(value) for key, value in yaml.resolver.Resolver.yaml_implicit_resolvers.items()
}
_Dumper.yaml_implicit_resolvers = {key: list(value) for key, value in yaml.SafeDumper.yaml_implicit_resolvers.items()}
for _resolver in (_Composer, _Dumper):
    _resolver.add_implicit_resolver(f"{_PREFIX}float", _FLOAT, list("-+0123456789."))


class _Builder:
    """Plain data from nodes; an alias is written out, so that no two places share one block."""

    def __init__(self, text: str, result: YamlText) -> None:
        self._text, self._result = text, result
        self._count = 0
        self._open: set[int] = set()

    def value(self, node: yaml.Node, place: Place) -> Any:
        self._count += 1
        if self._count > MOST_VALUES:
            raise YamlError(f"more than {MOST_VALUES:,} values, aliases written out", _line(node), place)
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, place)
        if id(node) in self._open:
            raise YamlError("an anchor stands inside itself: the value has no end", _line(node), place)
        self._open.add(id(node))
        try:
            if node.tag not in (f"{_PREFIX}map", f"{_PREFIX}seq"):
                raise YamlError(f"the tag {shortened(node.tag)} has no meaning here; leave it out", _line(node), place)
            return self._block(node, place) if isinstance(node, yaml.MappingNode) else self._list(node, place)
        finally:
            self._open.discard(id(node))

    def _list(self, node: yaml.Node, place: Place) -> list[object]:
        values = []
        for index, item in enumerate(node.value):
            self._result.lines[(*place, index)] = _line(item)
            values.append(self.value(item, (*place, index)))
        return values

    def _block(self, node: yaml.Node, place: Place) -> dict[str, object]:
        block: dict[str, object] = {}
        seen: dict[Hashable, int] = {}
        merged: list[yaml.Node] = []
        for key_node, value_node in node.value:
            if key_node.tag == f"{_PREFIX}merge":
                merged.append(value_node)
                continue
            key, line = self._key(key_node, place), _line(key_node)
            if key in seen:
                raise YamlError(f"the key stands twice (first in line {seen[key]}); keep one", line, (*place, key))
            seen[key] = self._result.lines[(*place, key)] = line
            block[key] = self.value(value_node, (*place, key))
        for value_node in merged:
            for source in self._merge_sources(value_node, place):
                for key, value in source.items():
                    block.setdefault(key, value)
        return block

    def _merge_sources(self, node: yaml.Node, place: Place) -> Iterator[dict[str, Any]]:
        for each in node.value if isinstance(node, yaml.SequenceNode) else [node]:
            if not isinstance(each, yaml.MappingNode):
                raise YamlError("`<<:` takes in a block, or a list of blocks", _line(each), place)
            self._count += 1
            # What is taken in has lines of its own: they are noted under the place that takes it, and overridden there.
            known = dict(self._result.lines)
            yield self.value(each, place)
            self._result.lines.update(known)

    def _key(self, node: yaml.Node, place: Place) -> str:
        line = _line(node)
        if not isinstance(node, yaml.ScalarNode):
            written = self._text[node.start_mark.index : node.end_mark.index]
            if isinstance(node, yaml.MappingNode) and node.flow_style:
                raise YamlError(
                    f"{shortened('{' + written + '}')} is a placeholder that nobody filled in, or a block as a key; write "
                    "its value",
                    line,
                    place,
                )
            raise YamlError(f"a block or a list cannot be a key: {shortened(written)}", line, place)
        check_plain_text(node.value, line, place)
        if node.tag != f"{_PREFIX}str":
            raise YamlError(f"the key {shortened(node.value)} is no text in YAML; {quoted(node.value)}", line, place)
        return node.value

    def _scalar(self, node: yaml.ScalarNode, place: Place) -> object:
        kind, line = node.tag.removeprefix(_PREFIX), _line(node)
        check_plain_text(node.value, line, place)
        if kind == "str":
            return node.value
        if node.style is None:
            self._result.written[place] = node.value
        try:
            return _READERS[kind](node.value)
        except KeyError:
            if kind == "value":  # of YAML 1.1, which gives = a meaning
                raise YamlError(f"= alone is no text in YAML; {quoted(node.value)}", line, place) from None
            raise YamlError(f"the tag {shortened(node.tag)} has no meaning here; leave it out", line, place) from None
        except (ValueError, ArithmeticError) as error:
            raise YamlError(str(error), line, place) from None


def check_plain_text(text: str, line: int | None = None, place: Place = ()) -> None:
    """Refuse control characters, which escapes such as "\\0" may bring in, and lengths that no later step can bear.

    Raises:
        YamlError: with the line and place that are given.
    """
    if found := _CONTROL.search(text):
        raise YamlError(_control_character(text, found), line, place)
    if len(text) > LONGEST_TEXT:
        raise YamlError(f"a text of {len(text):,} characters is too long; {LONGEST_TEXT:,} at most", line, place)


def _null(text: str) -> None:
    if text.lower() not in ("", "~", "null"):
        raise ValueError(f"{shortened(text)} is not null")


def _boolean(text: str) -> bool:
    if text.lower() in _TRUE | _FALSE:
        return text.lower() in _TRUE
    raise ValueError(f"{shortened(text)} is neither true nor false")


def _integer(text: str) -> int:
    digits = text.replace("_", "").lower()
    unsigned = digits.lstrip("+-")
    if len(text) > LONGEST_NUMBER:
        raise ValueError(f"a number of {len(text):,} characters is too long: {shortened(text)}")
    if ":" in unsigned:
        raise ValueError(
            f"{text} counts in sixties in YAML, as hours and minutes do; write the number, or {quoted(text)}"
        )
    if unsigned.startswith("0") and unsigned.isdecimal() and len(unsigned) > 1:
        raise ValueError(f"{text} with its leading 0 is octal in YAML; write the number without it, or {quoted(text)}")
    base = {"0x": 16, "0b": 2}.get(unsigned[:2], 10)
    try:
        number = int(digits, base)
    except ValueError:
        raise ValueError(f"{text} is no whole number; write one, or {quoted(text)}") from None
    if abs(number) > LARGEST_INTEGER:
        raise ValueError(f"the number {shortened(text)} is too large: {LARGEST_INTEGER} at most; or {quoted(text)}")
    return number


def _float(text: str) -> float:
    digits = text.replace("_", "").lower()
    if len(text) > LONGEST_NUMBER:
        raise ValueError(f"a number of {len(text):,} characters is too long: {shortened(text)}")
    if ":" in digits:
        raise ValueError(
            f"{text} counts in sixties in YAML, as hours and minutes do; write the number, or {quoted(text)}"
        )
    try:
        number = float(digits.replace(".inf", "inf").replace(".nan", "nan"))
    except ValueError:
        raise ValueError(f"{text} is no number; write one, or {quoted(text)}") from None
    if number == 0 and any(digit in "123456789" for digit in digits.partition("e")[0]):
        raise ValueError(f"{text} is too near to 0 for a number; write 0, or {quoted(text)}")
    if math.isinf(number) and "inf" not in digits:
        raise ValueError(f"{text} is too large for a number; write .inf, or {quoted(text)}")
    return number


def _date(text: str) -> None:
    raise ValueError(f"{text} is a date in YAML; {quoted(text)}")


_READERS = {"null": _null, "bool": _boolean, "int": _integer, "float": _float, "timestamp": _date}


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _control_character(text: str, found: re.Match[str]) -> str:
    code = ord(found[0])
    if code == 0 and text.count("\0") > max(8, len(text) // 4):
        return "not a text in UTF-8; it looks like UTF-16: save it as UTF-8"
    return f"a control character (U+{code:04X}) stands in the text; take it out"


def _hint(text: str, line: int | None) -> str:
    lines = text.split("\n")
    nearby = "\n".join(lines[max(0, line - 2) : line]) if line is not None else ""
    return "; is {{ ... }} a placeholder that nobody filled in?" if _PLACEHOLDER.search(nearby) else ""
