"""Messages for names that nobody knows."""

import difflib
from collections.abc import Iterable


def unknown(what: str, found: object, choices: Iterable[str]) -> str:
    """What is wrong with a name, what is near to it ("did you mean"), and what there is."""
    names = sorted(choices)
    near = difflib.get_close_matches(str(found), names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"unknown {what}: {found!r}{hint} (there is: {', '.join(names) or 'none'})"
