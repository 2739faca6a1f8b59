"""A checkpoint's scores, its errors as a page, its model as a file: what `python -m ctxtune.evaluate` does once asked."""

import argparse
import json
import math
import shlex
import shutil
import sys
import tempfile
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table

from ctxtune.consoles import Console
from ctxtune.data import Benchmark, Split, load_dataset
from ctxtune.durable_files import write_whole
from ctxtune.errors import ConfigError, TrackingError
from ctxtune.evaluation import (
    Checkpoint,
    Scored,
    check_one_model,
    export_checkpoint,
    mean_scores,
    named_scores,
    read_checkpoint,
    recorded_scores,
    restore_model,
    score_concatenated,
    score_model,
)
from ctxtune.reporting.gallery.error_gallery import ErrorGallery, Side, error_gallery_page
from ctxtune.retrieval import nearest
from ctxtune.terminal import named_device, use_threads
from ctxtune.yaml_text import Tree

NAMES = ("label", "name")
SHORT_TITLES = {"map_at_r": "MAP@R", "r_precision": "R-prec", "mean_reciprocal_rank": "MRR"}
TITLES = {"map_at_r": "MAP@R", "r_precision": "R-precision", "mean_reciprocal_rank": "MRR"}
SHOWN_NEIGHBORS = 8
BY_HAND = "the test classes were scored by hand"
DELIVERY_SECONDS = 120.0
SAME_SCORE, SAME_SCORE_ELSEWHERE = 2e-4, 2e-3
"""Differences of MAP@R that rounding may make, on the device that the run had and on another."""


def evaluate_checkpoint(arguments: argparse.Namespace) -> None:
    """Score, show and export as the command line asks.

    Raises:
        CtxtuneError: what the user can correct.
    """
    use_threads(arguments.threads)
    device = named_device(arguments.device)
    checkpoint = read_checkpoint(arguments.checkpoint, arguments.overrides, arguments.data, arguments.fold)
    if arguments.export or arguments.gallery_report:
        check_one_model(checkpoint)
    models = [restore_model(checkpoint, index).to(device) for index in range(len(checkpoint.runs))]
    benchmark = None if arguments.no_score else load_dataset(checkpoint.trial.dataset)
    messages = Console(stderr=arguments.json, highlight=False, soft_wrap=True, markup=False)
    if benchmark is not None:
        recall_at = tuple(arguments.recall_at or _recall_at(checkpoint, benchmark))
        with _ledger(arguments, checkpoint) as logged:
            scored = [
                score_model(checkpoint, model, benchmark, arguments.split, index, device, recall_at)
                for index, model in enumerate(models)
            ]
            together = None
            if len(scored) > 1 and arguments.split == "test":
                together = score_concatenated(scored, device, recall_at)
            logged |= mean_scores(scored)
        _compare_with_record(arguments, checkpoint, logged, device)
        if arguments.json:
            content = _as_json(arguments, checkpoint, scored, device)
            if together is not None:
                content["concatenated"] = _without_nan(named_scores(together.scores))
            sys.stdout.write(json.dumps(content, indent=2) + "\n")
        else:
            _print_scores(messages, arguments, checkpoint, scored, together)
        if arguments.gallery_report:
            _write_gallery(arguments, checkpoint, scored[0], device)
            messages.print(f"error gallery in {arguments.gallery_report}")
    if arguments.export:
        export_checkpoint(checkpoint, models[0], arguments.export, benchmark)
        messages.print(f"model in {arguments.export}, how to prepare images in {arguments.export}.json")


def _recall_at(checkpoint: Checkpoint, benchmark: Benchmark) -> tuple[int, ...]:
    """As configured; another data set than the run's has ranks of its own at which the field reports it."""
    same = benchmark.name == checkpoint.runs[0]["config"]["dataset"]["name"]
    return checkpoint.trial.evaluation.recall_at if same else benchmark.recall_at


@contextmanager
def _ledger(arguments: argparse.Namespace, checkpoint: Checkpoint) -> Iterator[dict[str, float]]:
    """Say that test classes are scored, and enter it in the ledger before it happens. Yields the metrics to log."""
    metrics: dict[str, float] = {}
    if arguments.split != "test":
        yield metrics
        return
    if not arguments.tracking_uri:
        warnings.warn(f"{BY_HAND}; this is not in the ledger (--tracking-uri URI enters it)", stacklevel=2)
        yield metrics
        return
    from ctxtune.tracking import Tracker, absolute_uri, flatten, record_test_scoring, redact, run_environment

    absolute_uri(arguments.tracking_uri)  # a wrong one is told before there is a folder
    key, trial = f"evaluation-{uuid.uuid4().hex[:12]}", checkpoint.trial
    spool = Path(tempfile.mkdtemp(prefix="ctxtune-evaluation-"))
    tracker = Tracker(arguments.tracking_uri, "evaluations", spool)
    try:
        tracker.check()
        tags = {**run_environment(), "config_hash": trial.hash(), "epoch": str(checkpoint.epoch)}
        tracker.start_run(key, name=key, kind="evaluation", params=flatten(trial.tree()), tags=tags)
        record_test_scoring(tracker, key, trial.dataset.name)
        if not tracker.flush(DELIVERY_SECONDS):
            raise TrackingError(f"the ledger cannot be written, so nothing is scored: {tracker.last_error}")
        state = "failed"
        try:
            yield metrics
            state = "completed"
            tracker.log_metrics(key, {f"test/{name}": value for name, value in metrics.items()}, 0)
        finally:
            tracker.end_run(key, state)
    finally:
        if tracker.close():
            shutil.rmtree(spool, ignore_errors=True)
        else:
            warnings.warn(
                f"not all was delivered; python -m ctxtune.tracking replay {shlex.quote(str(spool))} does it later",
                stacklevel=2,
            )
    warnings.warn(f"{BY_HAND}; entered in the ledger of {redact(arguments.tracking_uri)}", stacklevel=2)


def _compare_with_record(
    arguments: argparse.Namespace, checkpoint: Checkpoint, scores: dict[str, float], device: torch.device
) -> None:
    """A checkpoint of ctxtune.train does not say which fold it left out: its recorded score tells whether it was this."""
    if arguments.split != "validation" or arguments.data or arguments.fold is not None:
        return
    record = recorded_scores(checkpoint)
    known = record.metrics.get("validation/map_at_r")
    tolerance = SAME_SCORE if record.device.partition(":")[0] == device.type else SAME_SCORE_ELSEWHERE
    if known is not None and abs(known - scores["map_at_r"]) > tolerance:
        warnings.warn(
            f"MAP@R is {scores['map_at_r']:.4f}, but the run itself recorded {known:.4f} on its validation classes: these "
            "are perhaps others, and some of them were trained on; say which with --set validation.use=[N] and the like",
            stacklevel=2,
        )


def _subject(checkpoint: Checkpoint, split: str, one: Scored) -> str:
    """What was scored, in words."""
    name = checkpoint.trial.dataset.name
    if split == "test":
        return f"{name}, test classes"
    seen = "validation classes" if split == "validation" else "classes it was trained on"
    if one.fold is None:
        return f"{name}, {seen}"
    rule = checkpoint.validation
    folds = "" if rule.count == 1 else f" of {rule.folds}"
    return f"{name}, {seen}, fold {one.fold}{folds} ({rule.scheme}, seed {rule.seed})"


def _title(name: str) -> str:
    return TITLES.get(name) or name.replace("recall_at_", "Recall@")


def _print_scores(
    console: Console,
    arguments: argparse.Namespace,
    checkpoint: Checkpoint,
    scored: list[Scored],
    together: Scored | None,
) -> None:
    first, several = scored[0], len(scored) > 1
    console.print(f"{_subject(checkpoint, arguments.split, first)}, epoch {checkpoint.epoch}")
    table = Table()
    table.add_column("")
    for one in scored:
        table.add_column(f"fold {one.fold}" if several else "score", justify="right")
    if several:
        table.add_column("mean", justify="right")
    if together is not None:
        table.add_column("concatenated", justify="right")
    means = mean_scores(scored) if several else {}
    for name in named_scores(first.scores):
        values = [named_scores(one.scores)[name] for one in scored] + ([means[name]] if several else [])
        values += [named_scores(together.scores)[name]] if together is not None else []
        table.add_row(_title(name), *[f"{value:.4f}" for value in values])
    for title, counts in _counts(scored).items():
        table.add_row(
            title, *[f"{count:,}" for count in counts], *([""] if several else []), *([""] if together else [])
        )
    console.print(table)
    for one in scored if arguments.per_class else []:
        console.print(f"fold {one.fold}, by class" if several else "by class")
        for line in _class_lines(one):
            console.print(line)


def _counts(scored: list[Scored]) -> dict[str, list[int]]:
    counts = {
        "queries": [one.scores.queries for one in scored],
        "queries without match": [one.scores.queries_without_match for one in scored],
    }
    if scored[0].gallery is not None:
        counts["gallery"] = [len(one.gallery) for one in scored if one.gallery is not None]
    if any(one.left_out for one in scored):
        counts["unreadable images left out"] = [one.left_out for one in scored]
    return counts


def _class_rows(one: Scored) -> list[Tree]:
    """The scores of each class, lowest MAP@R first, classes without any match last."""
    classes = one.scores.per_class
    assert classes is not None
    order = np.argsort(classes.map_at_r, kind="stable")  # NaN comes last
    names = one.query.class_names
    return [
        {
            "label": int(classes.labels[row]),
            "name": names.get(int(classes.labels[row]), f"class {classes.labels[row]}"),
            "queries": int(classes.queries[row]),
            **{f"recall_at_{k}": float(values[row]) for k, values in classes.recall_at.items()},
            "map_at_r": float(classes.map_at_r[row]),
            "r_precision": float(classes.r_precision[row]),
            "mean_reciprocal_rank": float(classes.mean_reciprocal_rank[row]),
        }
        for row in order
    ]


def _class_lines(one: Scored) -> list[str]:
    """A line a class, its name at the end: names may be longer than a terminal is wide."""
    rows = _class_rows(one)
    headings = [SHORT_TITLES.get(name) or name.replace("recall_at_", "R@") for name in rows[0] if name not in NAMES]
    lines = ["".join(f"{heading:>8}" for heading in headings) + "  class"]
    for row in rows:
        cells = [
            f"{value:>8,}" if name == "queries" else _cell(value) for name, value in row.items() if name not in NAMES
        ]
        lines.append("".join(cells) + f"  {row['name']}")
    return lines


def _cell(value: float) -> str:
    return f"{'-':>8}" if math.isnan(value) else f"{value:>8.4f}"


def _as_json(arguments: argparse.Namespace, checkpoint: Checkpoint, scored: list[Scored], device: torch.device) -> Tree:
    runs = []
    for one in scored:
        counts = {title.replace(" ", "_"): values[0] for title, values in _counts([one]).items()}
        run: Tree = {"fold": one.fold, **named_scores(one.scores), **counts}
        if arguments.per_class:
            run["classes"] = _class_rows(one)
        runs.append(run)
    content = {
        "checkpoint": str(checkpoint.path),
        "epoch": checkpoint.epoch,
        "config_hash": checkpoint.trial.hash(),
        "data_set": checkpoint.trial.dataset.name,
        "part": arguments.split,
        "validation": checkpoint.validation.model_dump(mode="json"),
        "device": str(device),
        "scores": mean_scores(scored),
        "runs": runs,
    }
    return _without_nan(content)


def _without_nan(value: Any) -> Any:
    """JSON has no NaN: null stands for a score that does not exist."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _write_gallery(arguments: argparse.Namespace, checkpoint: Checkpoint, one: Scored, device: torch.device) -> None:
    epoch = f"{checkpoint.path.name}, epoch {checkpoint.epoch}"
    facts = {"what": _subject(checkpoint, arguments.split, one), "checkpoint": epoch}
    facts |= {_title(name): f"{value:.4f}" for name, value in named_scores(one.scores).items()}
    facts |= {title: f"{values[0]:,}" for title, values in _counts([one]).items()}
    each, found = one.scores.per_query, one.gallery_embeddings
    assert each is not None
    items = len(one.query) - 1 if one.gallery is None else len(one.gallery)
    neighbors = nearest(
        one.embeddings.to(device), None if found is None else found.to(device), k=min(SHOWN_NEIGHBORS, items)
    )
    page = error_gallery_page(
        ErrorGallery(
            title=f"Errors on {checkpoint.trial.dataset.name}",
            facts=facts,
            queries=_side(one.query, one.embeddings),
            gallery=None if one.gallery is None or found is None else _side(one.gallery, found),
            nearest=neighbors.indices,
            similarities=neighbors.similarities,
            average_precision=each.average_precision_at_r,
            first_match_rank=each.first_match_rank,
            class_names={**one.query.class_names, **(one.gallery.class_names if one.gallery else {})},
            worst=arguments.worst,
        )
    )
    try:
        arguments.gallery_report.parent.mkdir(parents=True, exist_ok=True)
        write_whole(arguments.gallery_report, page)
    except OSError as error:
        raise ConfigError(
            f"--gallery-report {arguments.gallery_report}: cannot be written ({error.strerror})"
        ) from None


def _side(split: Split, embeddings: torch.Tensor) -> Side:
    return Side(embeddings.numpy(), split.labels, split.read)
