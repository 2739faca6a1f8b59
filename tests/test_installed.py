"""The package as people install it: a wheel, in a folder of its own, far from the repository."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from ctxtune.completion import completion_script
from ctxtune.config import load_ablation
from ctxtune.errors import ConfigError
from ctxtune.shipped import find_file
from tests.helpers.once import once
from tests.helpers.processes import PATIENCE

SOURCES = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "ctxtune", "search_spaces", "ablations", "schemas")
WITHOUT_SWEEPS = """
import sys
from importlib.abc import MetaPathFinder

class Missing(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("ray", "mlflow", "optuna", "cmaes", "statsmodels"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
"""


def built(repository: Path, folder: Path) -> None:
    """Build the wheel and install it into `folder/installed`."""
    source = folder / "source"
    source.mkdir()
    for name in SOURCES:
        if (repository / name).is_dir():
            shutil.copytree(repository / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(repository / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    _run([*pip, "wheel", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", folder, source], folder)
    (wheel,) = folder.glob("ctxtune-*.whl")
    _run([*pip, "install", "--no-deps", "--no-index", "--target", folder / "installed", wheel], folder)
    shutil.rmtree(source)


def _run(command: list[object], folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        list(map(str, command)),
        cwd=folder,
        env={**environment, "OMP_NUM_THREADS": "1", "COLUMNS": "160", **variables},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="session")
def installation(repository) -> Path:
    folder, _ = once("installation", lambda folder: built(repository, folder))
    return folder


@pytest.fixture
def installed(installation, tmp_path, repository):
    """Run something with the installed package and nothing of the checkout; its standard output."""

    def run(*command: object) -> str:
        home = installation / "installed"
        first = {"ctxtune": home / "bin/ctxtune", "python": sys.executable}[str(command[0])]
        return _run([first, *command[1:]], tmp_path, PYTHONPATH=str(home)).stdout

    assert str(installation / "installed") in run("python", "-c", "import ctxtune; print(ctxtune.__file__)")
    return run


def test_the_wheel_holds_all_that_is_shipped(installation, repository):
    (wheel,) = installation.glob("*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    for folder in ("search_spaces", "ablations"):
        for file in (repository / folder).rglob("*.yaml"):
            assert f"ctxtune/{file.relative_to(repository).as_posix()}" in held
    assert {"ctxtune/schemas/search_space.json", "ctxtune/schemas/ablation.json", "ctxtune/schemas/trial.json"} <= held
    code = [file for file in (repository / "ctxtune").rglob("*") if file.is_file() and "__pycache__" not in file.parts]
    assert {file.relative_to(repository).as_posix() for file in code} - held == set()
    assert not [name for name in held if name.startswith(("tests", "docs", "benchmarks"))]


def test_the_readme_renders_on_a_package_index(installation):
    (wheel,) = installation.glob("*.whl")
    _run([sys.executable, "-m", "twine", "check", "--strict", wheel], installation)
    archive = zipfile.ZipFile(wheel)
    metadata = archive.read(next(name for name in archive.namelist() if name.endswith("METADATA"))).decode()
    links = re.findall(r"\]\(([^)]+)\)", metadata)
    assert len(links) > 20 and [link for link in links if not link.startswith("https://")] == []


def test_the_command_is_the_modules_by_a_shorter_name(installed, repository):
    assert re.fullmatch(r"ctxtune \d+\.\d+\.\d+\n", installed("ctxtune", "--version"))
    for command in ("sweep", "report"):
        short, long = installed("ctxtune", command, "--help"), installed("python", "-m", f"ctxtune.{command}", "--help")
        assert f"usage: ctxtune {command}" in short and f"usage: python -m ctxtune.{command}" in long
        assert short.split("options:")[1] == long.split("options:")[1]
    every = [file.stem for file in (repository / "ctxtune").glob("*.py") if "run_command(main)" in file.read_text()]
    every.remove("__main__")
    rooms = [file.parent.name for file in (repository / "ctxtune").glob("*/__main__.py")]
    told = installed("ctxtune", "--help")
    assert {name for name in [*every, *rooms] if not re.search(rf"^  {name} ", told, re.MULTILINE)} == set()


@pytest.mark.slow
def test_a_shipped_space_runs_by_its_name(installed):
    assert "nothing was started" in installed("ctxtune", "sweep", "quickstart", "--dry-run")


def test_shipped_files_are_listed_and_copied_to_be_edited(installed, tmp_path):
    listed = installed("ctxtune", "copy")
    assert re.search(r"^  cars +Cars196", listed, re.MULTILINE) and "contextual_loss" in listed
    installed("ctxtune", "copy", "cars", "mine.yaml")
    installed("ctxtune", "copy", "ablations/quickstart")
    copied = (tmp_path / "mine.yaml").read_text()
    schema = re.fullmatch(r"# yaml-language-server: \$schema=(.+)", copied.splitlines()[0])
    assert "name: cars-contextual" in copied and schema is not None and Path(schema[1]).is_file()
    assert load_ablation(tmp_path / "quickstart.yaml").trial == load_ablation(find_file("ablations/quickstart")).trial


def test_losses_and_scores_need_neither_ray_nor_mlflow(installed, tmp_path):
    (tmp_path / "base.py").write_text(
        WITHOUT_SWEEPS
        + """
import ctxtune
assert not {"torch", "numpy", "ctxtune.losses"} & set(sys.modules), "import ctxtune alone brings nothing with it"
import torch
generator = torch.Generator().manual_seed(0)
embeddings, labels = torch.randn(16, 8, generator=generator), torch.arange(16) // 4
loss = ctxtune.ContextualLoss()(embeddings.requires_grad_(), labels)
loss.backward()
assert embeddings.grad.abs().sum() > 0
assert ctxtune.score(torch.eye(4)[labels], labels).map_at_r == 1.0
assert set(ctxtune.__all__) <= set(dir(ctxtune)) and all(getattr(ctxtune, name) for name in ctxtune.__all__)
import ctxtune.train, ctxtune.evaluate, ctxtune.data.__main__  # single runs go without, too
sys.argv = ["ctxtune", "sweep", "quickstart", "--dry-run"]
from ctxtune.__main__ import run
run()
"""
    )
    with pytest.raises(AssertionError, match=r"error: this needs ray.*pip install 'ctxtune\[sweep\]'"):
        installed("python", "base.py")


@pytest.mark.parametrize("name", ["cars", "search_spaces/cars", "search_spaces/cars.yaml"])
def test_a_shipped_file_has_a_name_and_a_file_that_is_there_comes_first(name, repository, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_file(name) == repository / "search_spaces/cars.yaml"
    own = tmp_path / name
    own.parent.mkdir(exist_ok=True)
    own.write_text("name: mine\n")
    assert find_file(name) == Path(name)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("crs", "crs: no such file, and no shipped search space; did you mean cars?"),
        ("nonsense", "python -m ctxtune.copy lists them"),
        ("cars.yaml", "cars.yaml: no such file"),
        ("elsewhere/cars", "elsewhere/cars: no such file"),
        ("x" * 5000, "no such file"),
    ],
)
def test_a_name_that_is_none_is_told_with_the_nearest(name, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=re.escape(said)):
        find_file(name, ("search_spaces",))


def test_completion_offers_commands_options_and_shipped_names(tmp_path):
    (tmp_path / "complete.bash").write_text(completion_script("bash"))
    ask = (
        'source complete.bash; offer() { COMP_WORDS=(ctxtune "$@"); COMP_CWORD=$#; COMPREPLY=(); _shtab_ctxtune; '
        'echo "${COMPREPLY[@]}"; }; offer sw; offer sweep --dry; offer sweep ca; offer ablate cont'
    )
    done = subprocess.run(["bash", "-c", ask], cwd=tmp_path, capture_output=True, text=True, check=True)
    offered = [set(line.split()) for line in done.stdout.splitlines()]
    assert offered == [{"sweep"}, {"--dry-run"}, {"cars", "cars_dinov2"}, {"contextual_loss"}]
