"""What pydantic says of a wrong value, in the words of someone who writes YAML."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ctxtune.redaction import redact
from ctxtune.settings import REFUSED
from ctxtune.text import did_you_mean, shortened
from ctxtune.yaml_text import quoted

_EXPECTED = {
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_parsing": "a number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "string_type": "text",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a block of keys",
    "mapping_type": "a block of keys",
    "model_type": "a block of keys",
    "model_attributes_type": "a block of keys",
    "none_required": "null",
}
_BOUNDS = {
    "greater_than": ("gt", "a number above {}"),
    "greater_than_equal": ("ge", "a number of at least {}"),
    "less_than": ("lt", "a number below {}"),
    "less_than_equal": ("le", "a number of at most {}"),
    "too_short": ("min_length", "at least {} items"),
    "too_long": ("max_length", "at most {} items"),
    "string_too_long": ("max_length", "at most {} characters"),
}


def in_words(problems: Sequence[Mapping[str, Any]], written: str | None = None, *, secret: bool = False) -> str:
    """What is wrong with one value, from all that pydantic says of it: one problem for each kind that it might be.

    Args:
        problems: of pydantic.
        written: the value as the file has it, where YAML reads no text there.
        secret: the value is not to be shown.

    >>> in_words([{"type": "literal_error", "msg": "", "input": "some", "ctx": {"expected": "'auto'"}},
    ...           {"type": "int_parsing", "msg": "", "input": "some"}])
    "expected 'auto' or a whole number; found 'some'"
    """
    told = [problem for problem in problems if problem["type"] in ("value_error", REFUSED)]
    if told:
        return str(told[0]["msg"]).removeprefix("Value error, ")
    kinds = {problem["type"] for problem in problems}
    if written == "" and kinds & {"string_type", "string_pattern_mismatch"}:
        return "expected text; the key has no value"
    if written is not None and not secret and kinds & {"string_type", "string_pattern_mismatch"}:
        return f"expected text; YAML reads {shortened(written)} as {_kind(problems[0]['input'])}; {quoted(written)}"
    expected = list(dict.fromkeys(filter(None, map(_expected, problems))))
    found = problems[0]["input"]
    if not expected:
        return f"{problems[0]['msg']}; found {shown_value(found, secret=secret)}"
    near = "" if secret else _near(problems, found)
    return f"expected {' or '.join(expected)}; found {shown_value(found, secret=secret)}{near}"


def shown_value(found: object, *, secret: bool = False) -> str:
    """A value as a message shows it: shortened, and without the passwords of addresses.

    >>> shown_value(["https://me:word@host/x"])
    "['https://host/x']"
    """
    if isinstance(found, Mapping):
        return "a block of keys"
    return "***" if secret else shortened(repr(_without_passwords(found)), 200)


def _without_passwords(found: object) -> object:
    if isinstance(found, (list, tuple)):
        return type(found)(_without_passwords(each) for each in found)
    if isinstance(found, Mapping):
        return {_without_passwords(key): _without_passwords(value) for key, value in found.items()}
    return redact(found) if isinstance(found, str) and ("@" in found or "://" in found) else found


def _kind(found: object) -> str:
    if found is None or isinstance(found, bool):
        return "null" if found is None else str(found).lower()
    return "a number" if isinstance(found, (int, float)) else type(found).__name__


def _expected(problem: Mapping[str, Any]) -> str | None:
    kind, context = problem["type"], problem.get("ctx", {})
    if kind in _EXPECTED:
        return _EXPECTED[kind]
    if kind in _BOUNDS:
        key, words = _BOUNDS[kind]
        return words.format(f"{context[key]:g}")
    if kind in ("literal_error", "enum"):
        return str(context["expected"])
    if kind == "string_pattern_mismatch":
        return f"text of the form {context['pattern']}"
    return None


def _near(problems: Sequence[Mapping[str, Any]], found: Any) -> str:
    names = [
        name
        for problem in problems
        for name in re.findall("'([^']*)'", str(problem.get("ctx", {}).get("expected", "")))
    ]
    return did_you_mean(found, names, otherwise="")
