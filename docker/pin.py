"""Write the image's pins from the environment that the tests have just passed in.

python docker/pin.py    # in .venv, after `pip install -e '.[cluster]'`
"""

from importlib import metadata
from pathlib import Path

import tomllib
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

FOLDER = Path(__file__).resolve().parent
TORCH = ("torch", "torchvision")
EXTRAS = ("sweep", "cluster")


def closure(requirements: list[str]) -> dict[str, str]:
    """Name and installed version of the requirements and of all that they need."""
    seen: set[tuple[str, frozenset[str]]] = set()
    found: dict[str, str] = {}
    waiting = [Requirement(text) for text in requirements]
    while waiting:
        requirement = waiting.pop()
        name, extras = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        distribution = metadata.distribution(requirement.name)
        found[name] = distribution.version.partition("+")[0]
        for text in distribution.requires or []:
            needed = Requirement(text)
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras | {""}):
                waiting.append(needed)
    return found


def own_requirements() -> list[str]:
    """What pyproject.toml asks for, the extras of a cluster among it."""
    project = tomllib.loads((FOLDER.parent / "pyproject.toml").read_text())["project"]
    extras = [text for extra in EXTRAS for text in project["optional-dependencies"][extra]]
    return [*project["dependencies"], *(text for text in extras if not text.startswith("ctxtune[")), "setuptools"]


def pins() -> dict[str, str]:
    """File name to content."""
    found = closure(own_requirements())
    # PyTorch pins its CUDA libraries itself, and its wheels without CUDA need none.
    cuda = [name for name in found if name.startswith(("nvidia-", "cuda-")) or name == "triton"]
    rest = sorted(set(found) - set(cuda) - set(TORCH))
    return {
        "requirements-torch.txt": "# Made by docker/pin.py; CUDA's libraries are pinned by torch itself.\n"
        + "".join(f"{name}=={found[name]}\n" for name in TORCH),
        "requirements.txt": "# Made by docker/pin.py: what the image holds besides PyTorch and faiss.\n"
        + "".join(f"{name}=={found[name]}\n" for name in rest),
    }


if __name__ == "__main__":
    for name, content in pins().items():
        (FOLDER / name).write_text(content)
