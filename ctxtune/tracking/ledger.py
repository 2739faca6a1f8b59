"""The ledger of test scorings: how often the test classes of a data set were looked at.

Every run that scores test classes carries a tag with the data set's name, set before the scoring; the ledger is the
runs with that tag, in all experiments, deleted ones included.
"""

from ctxtune.tracking.duplicates import TEST_TAG
from ctxtune.tracking.queries import TrackedRun, search_tagged
from ctxtune.tracking.tracker import Tracker


def record_test_scoring(tracker: Tracker, key: str, data_set: str) -> None:
    """Enter in the ledger that the run with this key is about to score the test classes of `data_set`."""
    tracker.set_tags(key, {TEST_TAG: data_set})


def count_test_scorings(uri: str, data_set: str) -> int:
    """How many runs have scored the test classes of a data set. Raises TrackingError."""
    return len(search_tagged(uri, TEST_TAG, data_set))


def all_test_scorings(uri: str) -> dict[str, list[TrackedRun]]:
    """The runs that have scored test classes, by data set. Raises TrackingError."""
    scorings: dict[str, list[TrackedRun]] = {}
    for run in search_tagged(uri, TEST_TAG):
        scorings.setdefault(run.tags[TEST_TAG], []).append(run)
    return scorings
