"""What the chosen configuration retrieves on the test classes, in pictures, beside the start."""

from collections.abc import Mapping

from pydantic import ValidationError

from ctxtune.errors import TrackingError
from ctxtune.reporting.document import Gallery, Section
from ctxtune.reporting.sweep.data import SweepData
from ctxtune.results.runs import START, completed
from ctxtune.retrieved_images import SHOWN_QUERIES_FILE, RetrievedImage, ShownQuery, from_json
from ctxtune.tracking import read_texts

CHOSEN = "chosen"


def retrieved_section(data: SweepData) -> Section:
    """Some test queries with what start and chosen configuration find for them; empty where nothing was kept.

    Raises:
        TrackingError: what was kept cannot be read.
    """
    shown = _shown_by_arm(data)
    if not shown:
        return Section("Retrieved images", [])
    return Section("Retrieved images", [Gallery("retrieved", _caption(shown), _rows(shown))])


def _shown_by_arm(data: SweepData) -> dict[str, tuple[ShownQuery, ...]]:
    """What each arm's first seed kept, the start first."""
    names = {START: START, data.results.chosen: CHOSEN}
    first = [run for run in completed(data.study.in_stage("confirmation")) if run.seed_index == 0 and run.arm in names]
    tracked = {data.study.by_key[run.key].run_id: names[run.arm] for run in first}
    texts = read_texts(data.study.uri, [data.study.by_key[run.key] for run in first], SHOWN_QUERIES_FILE)
    try:
        kept = {tracked[run_id]: from_json(text) for run_id, text in texts.items()}
    except ValidationError as error:
        raise TrackingError(
            f"{data.study.name}: the artifact {SHOWN_QUERIES_FILE}: {error.errors()[0]['msg']}"
        ) from None
    return {arm: kept[arm] for arm in (START, CHOSEN) if arm in kept}


def _rows(
    shown: Mapping[str, tuple[ShownQuery, ...]],
) -> list[tuple[ShownQuery, Mapping[str, tuple[RetrievedImage, ...]]]]:
    found = {arm: {query.row: query.found for query in queries} for arm, queries in shown.items()}
    queries = next(iter(shown.values()))
    return [
        (query, {arm: rows[query.row] for arm, rows in found.items()})
        for query in queries
        if all(query.row in rows for rows in found.values())
    ]


def _caption(shown: Mapping[str, tuple[ShownQuery, ...]]) -> str:
    right, most = {}, 0
    for arm, queries in shown.items():
        images = [image for query in queries for image in query.found]
        right[arm] = sum(image.right for image in images)
        most = max(most, len(images))
    counts = " and ".join(f"{count} of the {_arm_words(arm)}" for arm, count in right.items())
    queries = next(iter(shown.values()))
    return (
        f"The nearest images of {len(queries)} test queries, as the first seed of each configuration finds them. The queries "
        "are drawn by their labels alone, the same for every model: one of a class, as far as the classes go. A solid blue "
        f"frame with ✓: of the query's class; a dashed orange frame with ✗: of another. Of {most} images found, "
        f"{counts} are right."
    )


def _arm_words(arm: str) -> str:
    return "start" if arm == START else "chosen configuration"
