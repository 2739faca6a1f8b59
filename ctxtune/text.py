"""Durations, counts, long values and names that nobody knows, as people say them; texts for Markdown."""

import difflib
import math
import re
import shlex
from collections.abc import Iterable
from pathlib import Path

_OBEYED_BY_MARKDOWN = {"<": "&lt;", "&": "&amp;", "]": r"\]"}
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_MARKDOWN = re.compile(r"<(?=[A-Za-z/!?])|&(?=#?\w+;)|\](?=[(\[])")


def duration(hours: float) -> str:
    """Hours, or minutes or seconds where that says more; not a number is a dash.

    >>> duration(0.0002), duration(0.0123), duration(0.123), duration(2.51), duration(1234.5)
    ('0.7 s', '44 s', '7.4 min', '2.5 h', '1,234 h')
    """
    if not math.isfinite(hours):
        return "–"
    if 60 * hours < 1:
        return f"{3600 * hours:.{0 if 3600 * hours >= 10 else 1}f} s"
    if hours < 1:
        return f"{60 * hours:.1f} min"
    return f"{hours:.1f} h" if hours < 100 else f"{hours:,.0f} h"


def dry_run_command(command: str, file: Path) -> str:
    """The command that tries a file, quoted for the shell.

    >>> dry_run_command("sweep", Path("-my cars.yaml"))
    "python -m ctxtune.sweep './-my cars.yaml' --dry-run"
    """
    name = f"./{file}" if str(file).startswith("-") else str(file)  # no option
    return shlex.join(["python", "-m", f"ctxtune.{command}", name, "--dry-run"])


def counted(count: float, noun: str) -> str:
    """A number with its noun.

    >>> counted(1, "contrast"), counted(1200, "contrast"), counted(0.5, "GPU")
    ('1 contrast', '1,200 contrasts', '0.5 GPUs')
    """
    number = f"{count:,}".removesuffix(".0")
    return f"{number} {noun}{'' if count == 1 else 's'}"


def shortened(text: str, most: int = 80) -> str:
    """A text as it is, or its beginning where it is longer than ``most`` characters.

    >>> shortened("x" * 5000, 10)
    'xxxxxxxxxx... (5,000 characters)'
    """
    return text if len(text) <= most else f"{text[:most]}... ({len(text):,} characters)"


def with_short_words(text: str, most: int = 200) -> str:
    """A text in which words of more than ``most`` characters, such as paths, are cut in their middle.

    >>> with_short_words(f"/{'x' * 5000}/y: no such file", 20)
    '/xxxxxxxxx...xxxxxxx/y: no such file'
    """
    return re.sub(rf"\S{{{most + 1},}}", lambda found: f"{found[0][: most // 2]}...{found[0][-most // 2 :]}", text)


def printable(text: str) -> str:
    r"""A text on one line: what a terminal would obey, and bytes that are no UTF-8, are written as escapes.

    >>> printable("a\nb\x1b[31m")
    'a\\nb\\x1b[31m'
    """
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def did_you_mean(name: object, known: Iterable[str], *, most: int = 1, otherwise: str | None = None) -> str:
    """What to add to the message for an unknown name: up to ``most`` names that are near, else ``otherwise``.

    Without ``otherwise`` all names are listed where none is near.

    >>> did_you_mean("contextul", ["contextual", "triplet"])
    '; did you mean "contextual"?'
    >>> did_you_mean("x", ["contextual", "triplet"])
    '; there are: contextual, triplet'
    """
    names = sorted(set(known))
    near = difflib.get_close_matches(str(name), names, n=most, cutoff=0.6)
    if near:
        quoted = " or ".join(f'"{each}"' for each in near)
        return f"; did you mean {quoted}?"
    if otherwise is not None:
        return otherwise
    return f"; there are: {', '.join(names)}" if names else "; there are none"


def markdown_text(text: object) -> str:
    """A text for Markdown, which passes HTML on: a tag, an entity, a link or a picture in it is seen, not obeyed.

    >>> markdown_text("<b>k</b> < 5 & [0, 1]; ![x](y)")
    '&lt;b>k&lt;/b> < 5 & [0, 1]; ![x\\\\](y)'
    """
    return _MARKDOWN.sub(lambda found: _OBEYED_BY_MARKDOWN[found[0]], str(text))


def markdown_cell(text: object) -> str:
    """A text for a cell of a Markdown table.

    >>> markdown_cell("a|b")
    'a\\\\|b'
    """
    return markdown_text(text).replace("|", "\\|").replace("\n", " ")
