"""Lines of JSON whose last entry, ``crc32``, is the checksum of the line's number and of the text before it.

A changed byte, and a line that is lost, doubled or moved, are all noticed.
"""

import re
import zlib

_CHECKSUM = re.compile(rb',"crc32":"([0-9a-f]{8})"\}\Z')


class DamagedLine(Exception):
    """A line is not what was written."""


def sealed(text: bytes, number: int) -> bytes:
    """The line, with its line break, of a JSON object.

    Args:
        text: the object, with one entry at least.
        number: of the line in its file, from 1.
    """
    return text[:-1] + b',"crc32":"%08x"}\n' % _checksum(text[:-1], number)


def unsealed(line: bytes, number: int, *, checked: bool) -> tuple[bytes, bool]:
    """The JSON object of a line, without its line break, and whether it had a checksum.

    Args:
        checked: whether it must have one.

    Raises:
        DamagedLine: it has none, or another line's, in words.
    """
    found = _CHECKSUM.search(line)
    if found is None:
        if checked:
            raise DamagedLine("it has no checksum")
        return line, False
    text = line[: found.start()]
    if found[1] != b"%08x" % _checksum(text, number):
        raise DamagedLine("its checksum does not match")
    return text + b"}", True


def _checksum(text: bytes, number: int) -> int:
    return zlib.crc32(text, zlib.crc32(b"%d:" % number))
