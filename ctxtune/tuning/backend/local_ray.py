"""A Ray of our own on this machine: closed to everybody else, and gone with the sweep.

Ray runs what it is sent, so each start has a random token, in a file that only this user can read, and listens on the
loopback interface.
"""

import contextlib
import os
import secrets
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import ray

from ctxtune.errors import ConfigError, CtxtuneError
from ctxtune.tuning.backend.private_folders import private_folder, remove_abandoned
from ctxtune.tuning.backend.ray_internals import (
    listening_on_loopback,
    patient_start,
    read_authentication_anew,
    without_monitors,
)
from ctxtune.tuning.backend.watch import shut_down

_SOCKET_PATH_BYTES = 103 if sys.platform == "darwin" else 107
# What follows the parent folder: ours, Ray's session, the longest name of a socket.
_LONGEST_REST = "/ctxtune-12345678/ray/session_2026-01-01_00-00-00_123456_1234567/sockets/plasma_store"
_SPARE_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")
LOCAL_RAY = "CTXTUNE_LOCAL_RAY"
"""Set for the processes of a Ray of our own: the private folder of its files."""
STARTS = 3
"""How often Ray's start is tried: on a loaded machine one of its processes may be late."""
_START_SECONDS = 150.0
"""How long a try waits for the raylet."""
_SETTINGS = {
    # Trials get processes of their own; those that Ray starts beforehand, one a core, would wait for nothing.
    "RAY_prestart_worker_first_driver": "0",
    # Of a loaded machine: seconds for the control service to start and for a worker to register, 20 and 60 otherwise.
    "RAY_gcs_server_port_wait_time_s": "120",
    "RAY_worker_register_timeout_seconds": "300",
}


@contextlib.contextmanager
def local_ray(options: Mapping[str, object], on_note: Callable[[str], None] = lambda text: None) -> Iterator[None]:
    """Ray on this machine, for the length of a sweep.

    Args:
        options: for `ray.init`.
        on_note: told what the user should know.

    Raises:
        ConfigError: no folder for its files.
        CtxtuneError: Ray does not start, or one of this version cannot be closed to others.
    """
    remove_abandoned()
    with ray_folder(on_note) as folder, _environment(_closed(folder)):
        try:
            own = {"num_cpus": usable_cpus(), "_temp_dir": str(folder / "ray")}
            _start({**options, **own}, on_note)  # Ray opens that folder to all, unlike the one around it
            _require_closed(on_note)
            yield
        finally:
            shut_down()
            remove_abandoned()  # of this sweep's workers that were killed
    read_authentication_anew()


def _closed(folder: Path) -> dict[str, str | None]:
    """The environment of a Ray that wants a token; the token itself is in a file, where no listing of processes shows it."""
    file = folder / "token"
    file.touch(0o600, exist_ok=False)
    file.write_text(secrets.token_hex(32), encoding="ascii")
    loopback = next((name for _, name in socket.if_nameindex() if name in ("lo", "lo0")), None)
    return {
        **{name: os.environ.get(name, value) for name, value in _SETTINGS.items()},
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": None,  # a cluster's; Ray would prefer it
        "RAY_AUTH_TOKEN_PATH": str(file),
        LOCAL_RAY: str(folder),
        # Runs on several GPUs of this machine: their processes talk to each other here, too.
        "NCCL_SOCKET_IFNAME": loopback,
        "GLOO_SOCKET_IFNAME": loopback,
    }


def _start(options: Mapping[str, Any], on_note: Callable[[str], None]) -> None:
    read_authentication_anew()
    before = _children()
    for attempt in range(1, STARTS + 1):
        try:
            # Were Ray to need them after all, the next try has them.
            saved = without_monitors() if attempt == 1 else contextlib.nullcontext()
            with saved, listening_on_loopback(), patient_start(_START_SECONDS), own_sigterm():
                ray.init(address="local", include_dashboard=False, _node_ip_address="127.0.0.1", **options)
            return
        except Exception as error:  # noqa: BLE001 - Ray raises what it likes where one of its processes is late
            ray.shutdown()
            for process in _children() - before:  # those that did start; Ray would end them with this process only
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            why = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
            if attempt == STARTS:
                raise CtxtuneError(
                    f"Ray could not be started on this machine, tried {STARTS} times ({why}). Is it very busy, out of memory "
                    "or out of processes (ulimit -u)? Nothing is lost: try again"
                ) from None
            on_note(f"Ray has not started in time ({why}); trying again ({attempt + 1} of {STARTS})")


def usable_cpus() -> int | None:
    """The CPUs that this process may use, where that is less than the machine has; None: as many as Ray counts.

    Ray counts those of the machine: of a Slurm job or under `taskset` too many.
    """
    counts = [len(os.sched_getaffinity(0))] if hasattr(os, "sched_getaffinity") else []
    allocated = os.environ.get("SLURM_CPUS_ON_NODE", "")
    if allocated.isdigit():
        counts.append(max(1, int(allocated)))
    fewest = min(counts, default=None)
    return fewest if fewest is not None and fewest != os.cpu_count() else None


def _children() -> set[int]:
    """The processes that this one has started; none where the system does not say."""
    found: set[int] = set()
    for file in Path(f"/proc/{os.getpid()}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # a thread that has ended
            found.update(map(int, file.read_text().split()))
    return found


@contextlib.contextmanager
def own_sigterm() -> Iterator[None]:
    """Keep this process's handler of SIGTERM, which Ray replaces by one that leaves without a word.

    Raises:
        KeyboardInterrupt: a SIGTERM came while Ray's was there.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit as left:
        if left.code in (signal.SIGTERM, -signal.SIGTERM):
            raise KeyboardInterrupt("SIGTERM") from None
        raise
    finally:
        signal.signal(signal.SIGTERM, handler)


@contextlib.contextmanager
def _environment(values: Mapping[str, str | None]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    _set(values)
    try:
        yield
    finally:
        _set(before)


def _set(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _require_closed(on_note: Callable[[str], None]) -> None:
    if os.environ.get("RAY_AUTH_MODE") != "token":
        raise CtxtuneError(
            f"Ray {ray.__version__} cannot be closed to others by a token; install another version of ray"
        )
    host = ray.get_runtime_context().gcs_address.rpartition(":")[0].strip("[]")
    if not ip_address(host).is_loopback:
        on_note(
            f"Ray {ray.__version__} listens on {host}, not on the loopback interface only: whoever reaches this machine's "
            "ports still needs this sweep's random token"
        )


@contextlib.contextmanager
def ray_folder(on_note: Callable[[str], None]) -> Iterator[Path]:
    """A private folder with a name so short that the paths of Ray's sockets in it are possible."""
    asked = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    for parent in dict.fromkeys([asked, *_SPARE_FOLDERS]):
        if len(os.fsencode(parent)) + len(_LONGEST_REST) > _SOCKET_PATH_BYTES:
            continue
        with contextlib.ExitStack() as opened:
            try:
                folder = opened.enter_context(private_folder(Path(parent)))
            except OSError:
                continue
            if parent != asked:
                on_note(
                    f"Ray's own files are in {folder}: below {asked} the paths of its sockets would be longer than the "
                    f"{_SOCKET_PATH_BYTES} bytes that the system allows, or nothing can be written there"
                )
            remove_abandoned(Path(parent))
            yield folder
            return
    raise ConfigError(
        f"no temporary folder for Ray: {', '.join(dict.fromkeys([asked, *_SPARE_FOLDERS]))} cannot be written, or the paths of "
        f"sockets in them would be longer than {_SOCKET_PATH_BYTES} bytes; let RAY_TMPDIR name a short one"
    )
