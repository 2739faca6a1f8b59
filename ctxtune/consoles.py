"""A terminal that prints names as they are, and obeys nothing that a name says."""

from collections.abc import Iterable
from typing import Any

from rich import console
from rich.segment import Segment
from rich.text import Text

from ctxtune.text import printable


class Console(console.Console):
    """Rich's console for texts that hold names of files, classes and packages.

    What stands in square brackets or between colons is no markup and no emoji; control characters, and what turns the
    direction of writing, are printed as escapes.
    """

    def __init__(
        self,
        *,
        stderr: bool = False,
        quiet: bool = False,
        soft_wrap: bool = False,
        highlight: bool = False,
        markup: bool = False,
    ) -> None:
        super().__init__(
            stderr=stderr, quiet=quiet, soft_wrap=soft_wrap, highlight=highlight, markup=markup, emoji=False
        )

    def render_str(self, text: str, **options: Any) -> Text:  # type: ignore[override]  # of Rich, handed on
        """A plain text as Rich lays it out: escapes count in its width."""
        return super().render_str(printable_lines(text), **options)

    def render(
        self, renderable: console.RenderableType, options: console.ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """What is to be printed, piece by piece."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable_lines(segment.text))


def printable_lines(text: str) -> str:
    """A text of several lines, each `printable`."""
    return "\n".join(map(printable, text.split("\n")))
