"""How long something took or may take, as people say it."""

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
