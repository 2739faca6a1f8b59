"""Durations, counts and long values as people say them."""

import math


def duration(hours: float) -> str:
    """Hours, or minutes where that says more; not a number is a dash.

    >>> duration(0.0123), duration(2.51), duration(1234.5)
    ('0.7 min', '2.5 h', '1,234 h')
    """
    if not math.isfinite(hours):
        return "–"
    if hours < 1:
        return f"{60 * hours:.1f} min"
    return f"{hours:.1f} h" if hours < 100 else f"{hours:,.0f} h"


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
