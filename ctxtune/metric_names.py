"""The names of metrics, as people write them."""

_TITLES = {"map_at_r": "MAP@R", "r_precision": "R-precision"}


def metric_title(metric: str) -> str:
    """A metric's name as people write it.

    >>> metric_title("validation/recall_at_1"), metric_title("map_at_r")
    ('validation Recall@1', 'MAP@R')
    """
    split, _, name = metric.rpartition("/")
    recall = f"Recall@{name.removeprefix('recall_at_')}" if name.startswith("recall_at_") else name
    return f"{split} {_TITLES.get(name, recall)}".strip()
