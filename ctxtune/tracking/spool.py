"""The spool: every event on its way to the tracking server, in one SQLite file.

Two processes share it: the driver appends, the delivery process takes and removes. SQLite's write-ahead log makes an
append one sequential write, which survives the death of the process at once and a power cut within about a second
(the delivery process calls `sync`); a torn write at the end of the log is discarded by SQLite itself. That log needs
memory which all processes share, so on a network file system, where the next process may be another machine's, SQLite's
rollback journal takes its place: slower, and safe wherever there are locks.
"""

import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctxtune.errors import TrackingError
from ctxtune.network_folders import is_on_network
from ctxtune.tracking.errors import SpoolFullError
from ctxtune.yaml_text import Tree

_SCHEMA = """
CREATE TABLE IF NOT EXISTS state (name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS runs (
    number INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, info TEXT NOT NULL, run_id TEXT, adopted INTEGER DEFAULT 0,
    doubt INTEGER);
CREATE TABLE IF NOT EXISTS events (
    sequence INTEGER PRIMARY KEY, run INTEGER NOT NULL, kind TEXT NOT NULL, body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS refused (
    sequence INTEGER PRIMARY KEY, run INTEGER NOT NULL, kind TEXT NOT NULL, body TEXT NOT NULL,
    reason TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS metric_names (number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS logged (
    run INTEGER, step INTEGER, metric INTEGER, PRIMARY KEY (run, step, metric)) WITHOUT ROWID;
"""
DATABASE = "spool.db"
PATIENCE_SECONDS = 10.0
NETWORK_PATIENCE_SECONDS = 600.0
"""How long a process waits for the other one, which may itself be waiting for a file server that is being restarted."""
EXPERIMENT = 0  # in the place of a run's number: the event is the experiment's
FILES = "files"
_DELIVERED = "delivered"


@dataclass(frozen=True)
class Event:
    """One thing to deliver: `kind` is start, metrics, params, tags, dataset, status or file; `body` its content.

    Tags whose `run` is EXPERIMENT belong to the experiment.
    """

    sequence: int
    run: int
    kind: str
    body: Tree


@dataclass(frozen=True)
class SpooledRun:
    """What the spool knows of a run: enough to create it anew on a server that lost it.

    `doubt`: when its creation was last asked for without an answer (milliseconds since 1970): the server may have made
    it, or make it later, beside the one that is known. None: no such request is open.
    """

    number: int
    key: str
    info: Tree
    run_id: str | None
    adopted: bool
    doubt: int | None = None


@dataclass(frozen=True)
class SpoolCounts:
    """How many runs a spool knows and how many of its events were delivered, wait, and were refused by the server.

    `doubtful`: runs that a slow server was asked for without an answer, so that it may still make them a second time.
    """

    runs: int
    delivered: int
    pending: int
    refused: int
    doubtful: int


class Spool:
    """Opens the spool in `folder`, made where it is missing (`create`). Safe to use from several threads.

    Raises TrackingError where the folder cannot be used, SpoolFullError from any method that writes to a full disk.
    """

    def __init__(self, folder: Path, *, create: bool = True) -> None:
        self.folder = folder
        if not create and not os.path.isfile(folder / DATABASE):  # noqa: PTH113  # Path raises for long names
            raise TrackingError(f"There is no tracking spool in {folder} (no {DATABASE})")
        self._lock = threading.RLock()
        self._metric_numbers: dict[str, int] = {}
        self._run_numbers: dict[str, int] = {}
        try:
            (folder / FILES).mkdir(parents=True, exist_ok=True)
            on_network = is_on_network(folder)
            self._database = sqlite3.connect(
                folder / DATABASE,
                timeout=NETWORK_PATIENCE_SECONDS if on_network else PATIENCE_SECONDS,
                isolation_level=None,
                check_same_thread=False,
            )
            self._choose_journal(on_network)
            self._database.executescript(_SCHEMA)
            self._add_missing_columns()
        except (OSError, sqlite3.Error) as error:
            raise self._explain(error) from error

    def close(self) -> None:
        """Close the database. The events stay."""
        with self._lock:
            self._database.close()

    # ------------------------------------------------------------------ the driver's side

    def add_run(self, key: str, info: Mapping[str, object]) -> bool:
        """Remember a run and ask for its creation; False, and nothing done, if the key is known already."""
        with self._writing() as database:
            if self.run_number(key) is not None:
                return False
            cursor = database.execute("INSERT INTO runs (key, info) VALUES (?, ?)", (key, json.dumps(info)))
            number = int(cursor.lastrowid or 0)
            self._append(database, number, "start", {})
        self._run_numbers[key] = number
        return True

    def add_event(self, run: int, kind: str, body: Mapping[str, object]) -> None:
        """Append one event of run number `run`."""
        with self._writing() as database:
            self._append(database, run, kind, body)

    def add_metrics(self, run: int, metrics: Mapping[str, float], step: int, timestamp_ms: int) -> int:
        """Append those of `metrics` that were never logged for this run and step; how many those were."""
        with self._writing() as database:
            fresh = {name: value for name, value in metrics.items() if self._first_time(database, run, name, step)}
            if fresh:
                body = {"step": step, "timestamp": timestamp_ms, "values": fresh}
                self._append(database, run, "metrics", body)
        return len(fresh)

    def run_number(self, key: str) -> int | None:
        """The number of the run with this key, None if it was never started."""
        number = self._run_numbers.get(key)
        if number is None:
            rows = self._read("SELECT number FROM runs WHERE key = ?", (key,))
            if rows:
                number = self._run_numbers[key] = int(rows[0][0])
        return number

    # ------------------------------------------------------------------ the delivery's side

    def batch(self, limit: int, *, files: bool, without_runs: Iterable[int] = ()) -> list[Event]:
        """The oldest events, at most `limit`: files only, or everything else only."""
        comparison = "=" if files else "<>"
        excluded = ", ".join(str(int(run)) for run in without_runs)
        rows = self._read(
            f"SELECT sequence, run, kind, body FROM events WHERE kind {comparison} 'file' "
            f"AND run NOT IN ({excluded}) ORDER BY sequence LIMIT ?",
            (limit,),
        )
        return [Event(sequence, run, kind, json.loads(body)) for sequence, run, kind, body in rows]

    def run(self, number: int) -> SpooledRun:
        """What is known of a run."""
        return self._runs("number = ?", (number,))[0]

    def doubtful(self) -> list[SpooledRun]:
        """The runs whose creation was asked for without an answer."""
        return self._runs("doubt IS NOT NULL", ())

    def _runs(self, condition: str, values: tuple[Any, ...]) -> list[SpooledRun]:
        rows = self._read(f"SELECT number, key, info, run_id, adopted, doubt FROM runs WHERE {condition}", values)
        return [
            SpooledRun(number, key, json.loads(info), run_id or None, bool(adopted), doubt)
            for number, key, info, run_id, adopted, doubt in rows
        ]

    def set_run_id(self, number: int, run_id: str | None, *, adopted: bool = False) -> None:
        """Remember under which id the server knows a run; `adopted` if it was there before this spool."""
        with self._writing() as database:
            database.execute("UPDATE runs SET run_id = ?, adopted = ? WHERE number = ?", (run_id, adopted, number))

    def set_doubt(self, number: int, doubt: int | None) -> None:
        """Remember that a run's creation is asked for, or that it is known what became of all such requests (None)."""
        with self._writing() as database:
            database.execute("UPDATE runs SET doubt = ? WHERE number = ?", (doubt, number))

    def forget_run_ids(self) -> None:
        """Look every run up again: the events go to another server now."""
        with self._writing() as database:
            database.execute("UPDATE runs SET run_id = NULL, adopted = 0, doubt = NULL")

    def delivered(self, events: Iterable[Event], refused: Iterable[tuple[Event, str]] = ()) -> None:
        """Remove delivered events in one transaction; keep what the server refused, with its reason."""
        with self._writing() as database:
            taken = [(event.sequence,) for event in events]
            database.executemany("DELETE FROM events WHERE sequence = ?", taken)
            refused = list(refused)
            count = int(self.state(_DELIVERED) or 0) + len(taken) - len({event.sequence for event, _ in refused})
            database.execute("INSERT OR REPLACE INTO state VALUES (?, ?)", (_DELIVERED, str(count)))
            database.executemany(
                "INSERT INTO refused (run, kind, body, reason) VALUES (?, ?, ?, ?)",
                [(event.run, event.kind, json.dumps(event.body), reason) for event, reason in refused],
            )

    def retry_refused(self) -> int:
        """Put what was refused back in the queue; how many events those were."""
        with self._writing() as database:
            database.execute("INSERT INTO events (run, kind, body) SELECT run, kind, body FROM refused")
            return database.execute("DELETE FROM refused").rowcount

    def refusals(self, limit: int = 20) -> list[tuple[str, str, str]]:
        """The latest refused events as (run key, kind, reason)."""
        return self._read(
            "SELECT COALESCE(key, 'the experiment'), kind, reason FROM refused LEFT JOIN runs ON run = number "
            "ORDER BY sequence DESC LIMIT ?",
            (limit,),
        )

    # ------------------------------------------------------------------ both

    def pending(self) -> int:
        """The number of events not yet delivered."""
        return int(self._read("SELECT COUNT(*) FROM events")[0][0])

    def counts(self) -> SpoolCounts:
        """How much of everything there is."""
        conditions = {
            "runs": "runs",
            "pending": "events",
            "refused": "refused",
            "doubtful": "runs WHERE doubt IS NOT NULL",
        }
        found = {name: int(self._read(f"SELECT COUNT(*) FROM {what}")[0][0]) for name, what in conditions.items()}
        return SpoolCounts(**found, delivered=int(self.state(_DELIVERED) or 0))

    def state(self, name: str) -> str | None:
        """A remembered value: uri, experiment, checked, last_error."""
        rows = self._read("SELECT value FROM state WHERE name = ?", (name,))
        return rows[0][0] if rows else None

    def set_state(self, **values: str | None) -> None:
        """Remember values, or forget those that are None."""
        with self._writing() as database:
            for name, value in values.items():
                if value is None:
                    database.execute("DELETE FROM state WHERE name = ?", (name,))
                else:
                    database.execute("INSERT OR REPLACE INTO state VALUES (?, ?)", (name, value))

    def version(self) -> int:
        """A number that changes whenever another process has written to the spool."""
        return int(self._read("PRAGMA data_version")[0][0])

    def sync(self) -> None:
        """Have the disk itself hold every event appended so far (fsync), without keeping writers waiting."""
        self._read("PRAGMA wal_checkpoint(PASSIVE)")

    def _choose_journal(self, on_network: bool) -> None:
        if on_network:
            self._database.execute("PRAGMA journal_mode=TRUNCATE")
            self._database.execute("PRAGMA synchronous=FULL")
            return
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=NORMAL")
        # `sync`, called in the delivery process, moves the log into the file: the driver never waits for that.
        self._database.execute("PRAGMA wal_autocheckpoint=10000")
        self._database.execute(f"PRAGMA journal_size_limit={4 * 2**20}")

    def _add_missing_columns(self) -> None:
        """A spool of an earlier version does not know of doubts."""
        columns = {row[1] for row in self._database.execute("PRAGMA table_info(runs)")}
        if "doubt" not in columns:
            self._database.execute("ALTER TABLE runs ADD COLUMN doubt INTEGER")

    def _append(self, database: sqlite3.Connection, run: int, kind: str, body: Mapping[str, object]) -> None:
        database.execute("INSERT INTO events (run, kind, body) VALUES (?, ?, ?)", (run, kind, json.dumps(body)))

    def _first_time(self, database: sqlite3.Connection, run: int, metric: str, step: int) -> bool:
        number = self._metric_numbers.get(metric)
        if number is None:
            database.execute("INSERT OR IGNORE INTO metric_names (name) VALUES (?)", (metric,))
            number = int(self._read("SELECT number FROM metric_names WHERE name = ?", (metric,))[0][0])
            self._metric_numbers[metric] = number
        return database.execute("INSERT OR IGNORE INTO logged VALUES (?, ?, ?)", (run, step, number)).rowcount == 1

    def _read(self, statement: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        try:
            with self._lock:
                return self._database.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise self._explain(error) from error

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        try:
            with self._lock:
                self._database.execute("BEGIN IMMEDIATE")
                try:
                    yield self._database
                    self._database.execute("COMMIT")
                except BaseException:
                    # A number handed out in a transaction that is undone must not be used again.
                    self._metric_numbers.clear()
                    if self._database.in_transaction:
                        self._database.execute("ROLLBACK")
                    raise
        except sqlite3.Error as error:
            raise self._explain(error) from error

    def _explain(self, error: Exception) -> TrackingError:
        full = "full" in str(error) or getattr(error, "errno", None) == 28 or "disk I/O error" in str(error)
        if full:
            return SpoolFullError(
                f"The disk that holds the tracking spool {self.folder} is full ({error}): free some space, then resume"
            )
        return TrackingError(f"The tracking spool {self.folder} cannot be used: {error}")


def spooled_keys(folder: Path) -> list[str]:
    """The keys of the runs that a spool knows, in the order of their start; none where there is no spool.

    Raises TrackingError where there is one that cannot be read.
    """
    if not (folder / DATABASE).is_file():
        return []
    spool = Spool(folder, create=False)
    try:
        return [key for (key,) in spool._read("SELECT key FROM runs ORDER BY number")]
    finally:
        spool.close()


def now_ms() -> int:
    """The time in milliseconds since 1970, as MLflow counts it."""
    return time.time_ns() // 1_000_000
