"""The commands of the Dockerfile, those that need no root, run one after the other in a clean environment.

About 6 GB of packages; everything goes below one temporary folder, which is deleted at the end.
"""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.helpers.processes import PATIENCE


@dataclass(frozen=True)
class Instruction:
    stage: str
    name: str
    text: str


def instructions(dockerfile: str) -> list[Instruction]:
    """The instructions of a Dockerfile with their stage, continued lines joined, comments left out."""
    lines = [line for line in dockerfile.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\s*\\\n\s*", " ", "\n".join(lines))
    found, stage = [], ""
    for line in joined.splitlines():
        name, _, text = line.strip().partition(" ")
        if name == "FROM":
            stage = text.rpartition(" AS ")[2]
        found.append(Instruction(stage, name, text))
    return found


@pytest.fixture
def image(tmp_path):
    for folder in ("opt", "requirements", "source", "wheels", "bin"):
        (tmp_path / folder).mkdir()
    (tmp_path / "bin/python").symlink_to(
        Path(sys.base_prefix) / "bin" / f"python{sys.version_info[0]}.{sys.version_info[1]}"
    )
    yield tmp_path
    shutil.rmtree(tmp_path, ignore_errors=True)


def moved(text: str, image: Path) -> str:
    """A command with the image's absolute folders below ``image``."""
    return re.sub(r"(?<![\w.$}])/(opt|requirements|source|wheels)\b", rf"{image}/\1", text)


def test_instructions_are_read_with_stage_and_continued_lines(repository):
    found = instructions((repository / "docker/Dockerfile").read_text())
    runs = [each for each in found if each.name == "RUN"]
    assert [each.stage for each in runs].count("dependencies") == 3
    assert any("apt-get update && apt-get install" in each.text and each.stage == "final" for each in runs)
    assert moved("python -m venv /opt/ctxtune", Path("/x")) == "python -m venv /x/opt/ctxtune"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_commands_of_the_dockerfile_make_an_environment_that_works(repository, image):
    environment = {
        "PATH": f"{image}/opt/ctxtune/bin:{image}/bin:/usr/bin:/bin",
        "HOME": str(image),
        "PIP_NO_CACHE_DIR": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "TMPDIR": str(image),
        "VARIANT": "cpu",
        "TORCH_INDEX": "",
        **{
            name: value
            for name, value in os.environ.items()
            if name.startswith(("PIP_", "SSL_", "HTTP_", "http_", "no_proxy"))
        },
        "https_proxy": os.environ["TESTS_HTTPS_PROXY"],
    }
    done = []
    for each in instructions((repository / "docker/Dockerfile").read_text()):
        if each.name == "COPY" and "--from" not in each.text and each.stage in ("dependencies", "package"):
            *sources, target = each.text.split()
            place = image / "source" / target if target.startswith(".") else Path(moved(target, image))
            for source in sources:
                origin = repository / source
                if origin.is_dir():
                    shutil.copytree(origin, place, dirs_exist_ok=True)
                else:
                    shutil.copy(origin, place / origin.name)
        if each.name == "RUN" and "apt-get" not in each.text:
            command = moved(re.sub(r"--mount=\S+\s+", "", each.text), image)
            ended = subprocess.run(
                ["sh", "-c", command],
                cwd=image / "source",
                env=environment,
                capture_output=True,
                text=True,
                timeout=1500,
            )
            assert ended.returncode == 0, f"{command}\n{ended.stdout[-2000:]}{ended.stderr[-2000:]}"
            done.append(command)
    assert len(done) == 5
    for command in (
        ["python", "-c", "import ctxtune, torch, torchvision, ray, optuna, mlflow, faiss, boto3, psycopg2, grpc"],
        ["python", "-m", "ctxtune.sweep", "--help"],
        ["ray", "--version"],
        ["mlflow", "--version"],
        ["pip", "check"],
    ):
        ended = subprocess.run(
            [str(image / "opt/ctxtune/bin" / command[0]), *command[1:]],
            cwd=image, env=environment, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert ended.returncode == 0, f"{command}: {ended.stdout}{ended.stderr}"
    where = subprocess.run(
        [str(image / "opt/ctxtune/bin/python"), "-c", "import ctxtune; print(ctxtune.__file__)"],
        cwd=image, env=environment, capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip
    assert where.stdout.startswith(str(image / "opt/ctxtune"))  # the wheel, not the checkout
