"""Random damage to files: flipped bits, lost ends, bytes put in, taken out, overwritten and repeated."""

import random

_EXTREMES = (b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f")


def mutated(content: bytes, seed: int) -> bytes:
    """The content with the damage of this number, always the same."""
    draw = random.Random(seed)
    found = bytearray(content)
    for _ in range(draw.choice([1, 1, 2, 4, 16])):
        place, kind = draw.randrange(len(found) + 1), draw.randrange(6)
        if kind == 0 and place < len(found):
            found[place] ^= 1 << draw.randrange(8)
        elif kind == 1:
            del found[place:]
        elif kind == 2:
            found[place:place] = draw.randbytes(draw.choice([1, 4, 64]))
        elif kind == 3:
            del found[place : place + draw.choice([1, 4, 100])]
        elif kind == 4:
            found[place : place + 4] = draw.choice(_EXTREMES)
        else:
            start = draw.randrange(len(found) + 1)
            found[place : place + 50] = found[start : start + 50]
    return bytes(found)
