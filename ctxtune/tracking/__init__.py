"""MLflow tracking through a durable local spool; knows nothing of Ray. Importing this does not import MLflow."""

from ctxtune.tracking.addresses import absolute_uri, redact
from ctxtune.tracking.artifacts import log_folder, read_texts
from ctxtune.tracking.checking import check_store
from ctxtune.tracking.datasets import TrackedDataset, tracked_dataset
from ctxtune.tracking.delivery_process import replay
from ctxtune.tracking.environment import run_environment
from ctxtune.tracking.errors import SpoolFullError
from ctxtune.tracking.ledger import all_test_scorings, count_test_scorings, record_test_scoring
from ctxtune.tracking.model_package import package_model
from ctxtune.tracking.queries import (
    MetricPoint,
    TrackedRun,
    best_runs,
    find_sweep,
    metric_histories,
    metric_history,
    read_runs,
    read_text,
)
from ctxtune.tracking.tracker import Tracker
from ctxtune.tracking.values import flatten

__all__ = [
    "MetricPoint",
    "SpoolFullError",
    "TrackedDataset",
    "TrackedRun",
    "Tracker",
    "absolute_uri",
    "all_test_scorings",
    "best_runs",
    "check_store",
    "count_test_scorings",
    "find_sweep",
    "flatten",
    "log_folder",
    "metric_histories",
    "metric_history",
    "package_model",
    "read_runs",
    "read_text",
    "read_texts",
    "record_test_scoring",
    "redact",
    "replay",
    "run_environment",
    "tracked_dataset",
]
