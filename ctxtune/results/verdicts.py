"""A verdict in plain words, or why there is none yet."""

from ctxtune.statistics import PairedDifference, Verdict

CLEAR = ("better", "worse")
"""The verdicts that claim a difference."""


def verdict_words(difference: PairedDifference | None, verdict: Verdict | None, planned: int, *, ended: bool) -> str:
    """What a paired difference comes to; nothing is judged before all its planned replications are there."""
    if verdict is not None:
        return verdict.words
    if difference is not None:
        return f"interim: {difference.count} of {planned}"
    return "no pairs" if ended else "not finished yet"
