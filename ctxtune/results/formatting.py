"""Numbers as a reader wants them: scores in percent and p-values with a bound."""

import math

from ctxtune.statistics import Interval

MISSING = "–"


def percent(score: float, digits: int = 2, *, sign: bool = False) -> str:
    """A score in [0, 1] in percent."""
    if not math.isfinite(score):
        return MISSING
    text = f"{100 * score:{'+' if sign else ''}.{digits}f}"
    return text.replace("-", "−")


def percent_interval(interval: Interval, *, sign: bool = False) -> str:
    """Mean ± half the width of its (symmetric) interval, in percent."""
    if not math.isfinite(interval.low):
        return percent(interval.mean, sign=sign)
    return f"{percent(interval.mean, sign=sign)} ± {percent(interval.half_width)}"


def percent_bounds(interval: Interval | None, *, sign: bool = False) -> str:
    """The bounds of an interval in percent."""
    if interval is None or not math.isfinite(interval.low):
        return MISSING
    return f"[{percent(interval.low, sign=sign)}, {percent(interval.high, sign=sign)}]"


def p_value(value: float | None) -> str:
    """Three digits, or the bound below which nobody needs to know."""
    if value is None or not math.isfinite(value):
        return MISSING
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def decimal(value: float, digits: int = 2, *, sign: bool = False) -> str:
    """A plain number."""
    if not math.isfinite(value):
        return MISSING
    return f"{value:{'+' if sign else ''}.{digits}f}".replace("-", "−")


def price(amount: float) -> str:
    """GPU-hours or money: to the hundredth, less than one to three significant digits."""
    return f"{amount:,.2f}" if amount >= 1 or amount == 0 else f"{amount:.3g}"


def setting(value: object) -> str:
    """A value of the configuration, short enough for a table."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def capital(text: str) -> str:
    """A text as the beginning of a sentence; the rest of it stays."""
    return text[:1].upper() + text[1:]
