"""Settings that hold for every test: nothing of the user's, no network, the same examples each time."""

import ipaddress
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

ROOT = Path(tempfile.gettempdir()) / f"ctxtune-tests-{os.getuid()}"
"""Outlives a session: fonts and rendered characters are looked up once, not by each test process."""

MEMORY = Path("/dev/shm")
"""Where Linux keeps files in memory."""
ENOUGH_BYTES = 2 << 30


def _has_room(folder: Path) -> bool:
    return os.access(folder, os.W_OK) and shutil.disk_usage(folder).free >= ENOUGH_BYTES


def _set_environment() -> None:
    """Before anything is imported that reads it; the children of tests inherit it."""
    ROOT.mkdir(mode=0o700, exist_ok=True)
    home = ROOT / "home"
    home.mkdir(exist_ok=True)
    for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "TORCH_HOME", "HF_HOME", "MPLCONFIGDIR"):
        os.environ.pop(name, None)
    for name in [name for name in os.environ if name.startswith(("MLFLOW_", "RAY_", "OPTUNA_", "CTXTUNE_", "AWS_"))]:
        if name not in ("CTXTUNE_CACHE", "CTXTUNE_LOGICAL_GPUS"):
            del os.environ[name]
    # For the one test that installs packages; set before a worker's own conftest finds what the first has put there.
    os.environ.setdefault("TESTS_HTTPS_PROXY", os.environ.get("https_proxy") or os.environ.get("HTTPS_PROXY") or "")
    nowhere = "http://127.0.0.1:9"  # whoever downloads something is refused at once, in child processes too
    os.environ |= {
        "HOME": str(home),
        "https_proxy": nowhere,
        "HTTPS_PROXY": nowhere,
        "no_proxy": "127.0.0.1,localhost",
        "HF_HUB_OFFLINE": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "RAY_USAGE_STATS_ENABLED": "0",
        # Without the user's own file git refuses a checkout that belongs to another user, as in a container.
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "safe.directory",
        "GIT_CONFIG_VALUE_0": "*",
        "MPLBACKEND": "agg",
        "OMP_NUM_THREADS": "1",
    }
    # Some 150 processes are started: compiled anew in each of them, the package would cost a minute.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    os.environ.setdefault("CTXTUNE_CACHE", str(ROOT / "cache"))
    if _has_room(MEMORY):  # journals, spools and SQLite files wait for the disk a quarter of many tests' time
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))
    # Tests that give runs a GPU have one that Ray only counts.
    os.environ.setdefault("CTXTUNE_LOGICAL_GPUS", "1")


_set_environment()

import torch  # noqa: E402

from tests.helpers import once as shared  # noqa: E402
from tests.helpers.once import Finished, once, session_folder  # noqa: E402

torch.set_num_threads(1)
hypothesis.settings.register_profile(
    "default",
    deadline=None,  # a time, on whatever machine
    derandomize=True,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.function_scoped_fixture],
    max_examples=50,
)
# `make test-slow`: other examples each time, many of them.
hypothesis.settings.register_profile(
    "slow", hypothesis.settings.get_profile("default"), derandomize=False, print_blob=True, max_examples=1000
)
hypothesis.settings.load_profile("default")


def _forbid_network() -> None:
    """Connections of this process to other machines are errors; MLflow's and Ray's own to this machine are none."""
    own: set[str] = set()

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        if event != "socket.connect":
            return
        connecting, address = arguments
        if not isinstance(address, tuple) or getattr(connecting, "type", None) != socket.SOCK_STREAM:
            return  # within this machine; Ray "connects" a datagram socket to learn its own address
        host = str(address[0])
        if host == "localhost" or host in own:
            return
        try:
            if ipaddress.ip_address(host).is_loopback:
                return
            with socket.socket(getattr(connecting, "family", socket.AF_INET)) as probe:
                probe.bind((host, 0, *address[2:]))  # succeeds for addresses of this machine only
            own.add(host)
        except (ValueError, OSError):
            raise RuntimeError(f"a test connects to {host}: tests use no network") from None

    sys.addaudithook(watch)


_forbid_network()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Hypothesis tests are marked `property`; the files that start Ray come first, so that none is left for the end."""
    for item in items:
        if getattr(getattr(item, "obj", None), "is_hypothesis_test", False):
            item.add_marker(pytest.mark.property)
    long = {item.path for item in items if item.get_closest_marker("ray")}
    items.sort(key=lambda item: item.path not in long)


@pytest.fixture(scope="session", autouse=True)
def _session(tmp_path_factory: pytest.TempPathFactory) -> None:
    shared.SESSION = session_folder(tmp_path_factory)


@pytest.fixture(scope="session")
def repository() -> Path:
    return Path(__file__).resolve().parents[1]


@pytest.fixture
def refusing_port() -> Iterator[int]:
    """A port of the loopback that refuses connections: it is held, so that nobody begins to listen on it meanwhile."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield int(holder.getsockname()[1])


@pytest.fixture(scope="session")
def finished_sweep(repository: Path) -> Finished:
    """The folder of a small quickstart sweep that nothing disturbed, and what its command said; one for all processes."""
    from tests.helpers.sweeps import run_sweep

    return once("sweep", lambda folder: run_sweep(repository, folder))


@pytest.fixture(scope="session")
def finished_ablation(repository: Path) -> Finished:
    """The folder of a small quickstart ablation that nothing disturbed, and what its command said; one for all processes."""
    from tests.helpers.ablations import run_ablation

    return once("ablation", lambda folder: run_ablation(repository, folder))
