"""The names of metrics: as people write them, and of the same score on other classes."""

SEPARATED = "_separated"
"""Of a split whose scores are means over the models that it is also scored by together."""
_TITLES = {"map_at_r": "MAP@R", "r_precision": "R-precision"}


def metric_title(metric: str) -> str:
    """A metric's name as people write it.

    >>> metric_title("validation/recall_at_1"), metric_title("map_at_r")
    ('validation Recall@1', 'MAP@R')
    >>> metric_title("test_separated/map_at_r")
    'test MAP@R, separated'
    """
    split, _, name = metric.rpartition("/")
    recall = f"Recall@{name.removeprefix('recall_at_')}" if name.startswith("recall_at_") else name
    each = ", separated" if split.endswith(SEPARATED) else ""
    return f"{split.removesuffix(SEPARATED)} {_TITLES.get(name, recall)}{each}".strip()


def on_split(metric: str, split: str) -> str:
    """The name of a validation metric's counterpart on another split; other metrics as they are.

    >>> on_split("validation/map_at_r", "test"), on_split("train/loss", "test")
    ('test/map_at_r', 'train/loss')
    """
    return f"{split}/{metric.removeprefix('validation/')}" if metric.startswith("validation/") else metric
