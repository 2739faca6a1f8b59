"""Text into plain data: what is read, what is refused with its line, and that nothing takes long."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctxtune.yaml_text import LARGEST_INTEGER, YamlError, parse_value, read_yaml, write_yaml

SCALARS = st.none() | st.booleans() | st.integers(-LARGEST_INTEGER, LARGEST_INTEGER) | st.floats(allow_nan=False)
TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Cn")), max_size=30)
DATA = st.recursive(
    SCALARS | TEXTS, lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner), max_leaves=20
)  # fmt: skip


@given(data=DATA)
def test_what_is_written_is_read_back(data):
    assert parse_value(write_yaml(data)) == data


@given(text=st.text(alphabet="{}[]()<>&*!|>?:-,#%@`'\"\\~= \t\n\x00\x85\u2028abc01_.+eExXTZ²٣", max_size=60))
def test_any_text_is_read_or_refused_in_words(text):
    try:
        read_yaml(text)
    except YamlError as error:
        assert error.reason


@given(
    text=st.text(alphabet=st.sampled_from("0123456789_:.+-xXoObeEaAfFtTzZ naNiIyYsSuUlL~="), min_size=1, max_size=25),
    tag=st.sampled_from(["", "!!int ", "!!float ", "!!bool ", "!!null ", "!!timestamp ", "!!binary ", "!!set ", "!x "]),
)
def test_any_scalar_is_read_or_refused_in_words(text, tag):
    try:
        parse_value(tag + text)
    except YamlError as error:
        assert error.reason


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: 1\nb: x\x00y", 2, "control character (U+0000)"),
        ("a: 1\nb: x\x1by", 2, "control character (U+001B)"),
        ("name: quickstart\n".encode("utf-16-le").decode(), 1, "UTF-16"),
        ('a: "\\0"', 1, "U+0000"),
        ('a: "\\ud800"', 1, "U+D800"),
        ('a: "\\UFFFFFFFF"', 1, "not valid YAML"),
        ("%YAML " + "1" * 5000 + ".1\n---\na: 1", 1, "not valid YAML"),
        ("a: 1\nb: {{ NAME }}", 2, "{{ NAME }} is a placeholder that nobody filled in"),
        ("a: {{ NAME }}-x\nb: 2", 1, "is {{ ... }} a placeholder"),
        ("{% if x %}\na: 1", 1, "is {{ ... }} a placeholder"),
        ("a: 1\na: 2", 2, "the key stands twice (first in line 1)"),
        ("b: 1\na: &x [1, *x]", 2, "an anchor stands inside itself"),
        ("a: &x {b: *x}", 1, "an anchor stands inside itself"),
        ("a: !!python/object:os.system x", 1, "has no meaning here"),
        ("a: !!set {b, c}", 1, "has no meaning here"),
        ("a: !!binary aGVsbG8=", 1, "has no meaning here"),
        ("no: 1", 1, 'the key no is no text in YAML; put it in quotes: "no"'),
        ("2024: 1", 1, 'put it in quotes: "2024"'),
        ("[1, 2]: 3", 1, "cannot be a key"),
        ("a: 2026-25-11", 1, 'put it in quotes: "2026-25-11"'),
        ("a: 2026-11-25", 1, "a date in YAML"),
        ("a: 2026-11-25 24:61:99", 1, "a date in YAML"),
        ("a: 0x_", 1, 'put it in quotes: "0x_"'),
        ("a: 0b_", 1, "no whole number"),
        ("a: 0200", 1, "with its leading 0 is octal in YAML"),
        ("a: -0_7", 1, "octal"),
        ("a: 1:30", 1, "counts in sixties"),
        ("a: 190:20:30.15", 1, "counts in sixties"),
        ("a: " + "9" * 5000, 1, "5,000 characters is too long"),
        ("a: 0x" + "f" * 5000, 1, "too long"),
        ("a: 9223372036854775808", 1, "too large"),
        ("a: !!int x", 1, "no whole number"),
        ("a: !!float x", 1, "no number"),
        ("a: !!bool x", 1, "neither true nor false"),
        ("a: !!null x", 1, "is not null"),
        ("a: =", 1, 'put it in quotes: "="'),
        ("a: 1e-400", 1, "too near to 0"),
        ("a: -0.0_1e-999", 1, "too near to 0"),
        ("a: 1e999", 1, "too large for a number"),
        ("a: 1\n---\nb: 2", 2, "another document"),
        ("a: {<<: 5}", 1, "takes in a block"),
        ("[" * 3000, 1, "inside each other"),
        ("- " * 3000, 1, "inside each other"),
        ("? " * 3000, 1, "inside each other"),
        ("a: " + "x" * 20_000, 1, "too long"),
    ],
)  # fmt: skip
def test_what_is_refused_is_told_with_its_line(text, line, words):
    with pytest.raises(YamlError) as caught:
        read_yaml(text)
    assert words in caught.value.reason
    assert caught.value.line == line


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1_000", 1000), ("0x1F", 31), ("0b101", 5), ("1e5", 1e5), ("2e-3", 2e-3), ("5.", 5.0), (".5", 0.5), ("+7", 7),
        ("yes", True), ("Off", False), ("~", None), ("", None), ('"0200"', "0200"), ("'no'", "no"), ("0o17", "0o17"),
        (".inf", float("inf")), ("-.Inf", float("-inf")), ("!!str 5", "5"), ("!!int 5", 5), ("08", "08"),
    ],
)  # fmt: skip
def test_scalars(text, value):
    found = parse_value(text)
    assert found == value and type(found) is type(value)


def test_an_alias_is_a_copy_and_merges_take_in_what_is_not_said():
    found = read_yaml("a: &a {x: 1, y: [2]}\nb: *a\nc:\n  <<: *a\n  x: 3\nd: {<<: [{x: 4}, *a]}")
    assert found.data["b"] == found.data["a"] and found.data["b"]["y"] is not found.data["a"]["y"]
    assert found.data["c"] == {"x": 3, "y": [2]} and found.data["d"] == {"x": 4, "y": [2]}
    assert found.lines[("c",)] == 3 and found.lines[("c", "x")] == 5


def _bomb(block: str) -> str:
    """Aliases of aliases, ten times each: 10^12 values in 0.4 kB."""
    lines = ["a0: &a0 " + ("[x]" if block == "[%s]" else "{x: 1}")]
    return "\n".join(lines + [f"a{i}: &a{i} " + block % ", ".join([f"*a{i - 1}"] * 10) for i in range(1, 13)])


@pytest.mark.parametrize(
    "text",
    [
        _bomb("[%s]"),
        _bomb("{<<: [%s]}"),
        "a: 1\n" * 40_000,
        "".join(f"key{i}: 1\n" for i in range(25_000)),
        "[" + "a, " * 80_000 + "]",
        "x" * 50_000_000,
        '"' + "a\n\n" * 80_000,
        "${A:-" * 40_000,
        "#" * 249_999,
        "!" * 249_999,
        "&a " * 80_000,
    ],
    ids=["aliases", "merges", "one key", "keys", "list", "long", "quote", "variables", "comment", "tag", "anchors"],
)
def test_what_is_too_much_is_refused_in_bounded_work(text):
    began = time.process_time()
    try:
        read_yaml(text)
    except YamlError as error:
        assert error.reason
    assert time.process_time() - began < 120  # without the bounds: hours, or all of the memory
