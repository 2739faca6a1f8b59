"""MLflow tracking through a durable local spool; knows nothing of Ray. Importing this does not import MLflow."""

from ctxtune.tracking.addresses import absolute_uri, redact
from ctxtune.tracking.drain import replay
from ctxtune.tracking.errors import SpoolFullError
from ctxtune.tracking.tracker import Tracker
from ctxtune.tracking.values import flatten

__all__ = ["SpoolFullError", "Tracker", "absolute_uri", "flatten", "redact", "replay"]
