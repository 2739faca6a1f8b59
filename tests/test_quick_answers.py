"""Help, a missing file and a typo are answered before anything heavy is imported: seconds of torch, Ray and MLflow."""

import json
import subprocess
import sys

from tests.helpers.processes import PATIENCE, environment

HEAVY = [
    "torch",
    "torchvision",
    "ray",
    "mlflow",
    "optuna",
    "scipy",
    "pandas",
    "matplotlib",
    "timm",
    "pytorch_metric_learning",
]
SCRIPT = """
import contextlib, importlib, io, json, sys
from ctxtune.errors import CtxtuneError

found = {}
for line in json.loads(sys.argv[1]):
    module, *sys.argv[1:] = line
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            importlib.import_module(module).main()
        except SystemExit as end:
            answer = f"exit {end.code}"
        except CtxtuneError as error:
            answer = str(error)
    found[" ".join(line)] = [answer, [name for name in json.loads(HEAVY) if name in sys.modules]]
print(json.dumps(found))
"""


def test_help_and_mistakes_are_answered_without_anything_heavy(repository, tmp_path):
    quickstart = (repository / "search_spaces/quickstart.yaml").read_text(encoding="utf-8")
    (tmp_path / "space.yaml").write_text(quickstart.replace("epsilon: 0.05", "epsilonn: 0.05", 1), encoding="utf-8")
    cars = (repository / "search_spaces/cars.yaml").read_text(encoding="utf-8")
    (tmp_path / "cars.yaml").write_text(cars.replace("trials: 64", "trails: 64"), encoding="utf-8")
    losses = (repository / "ablations/losses.yaml").read_text(encoding="utf-8")
    (tmp_path / "ablation.yaml").write_text(
        losses.replace("base: bases", f"base: {repository}/ablations/bases").replace("seeds:", "seedz:"),
        encoding="utf-8",
    )
    lines = [
        *(
            [f"ctxtune.{command}", "--help"]
            for command in (
                "sweep",
                "ablate",
                "report",
                "train",
                "evaluate",
                "tracking.__main__",
                "new",
                "doctor",
                "embed",
            )
        ),
        ["ctxtune.sweep", "absent.yaml"],
        ["ctxtune.sweep", "space.yaml"],
        ["ctxtune.sweep", "cars.yaml"],
        ["ctxtune.ablate", "ablation.yaml"],
        ["ctxtune.evaluate", "absent.pt"],
        ["ctxtune.train", "absent.yaml"],
        ["ctxtune.train", "space.yaml"],
    ]
    script = f"HEAVY = {json.dumps(json.dumps(HEAVY))}\n{SCRIPT}"
    done = subprocess.run(
        [sys.executable, "-c", script, json.dumps(lines)],
        cwd=tmp_path, env=environment(repository), capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    assert all(answer == "exit 0" for line, (answer, _) in answers.items() if line.endswith("--help"))
    assert "no such file" in answers["ctxtune.sweep absent.yaml"][0]
    assert answers["ctxtune.evaluate absent.pt"][0] == "absent.pt: no such checkpoint"
    assert "no such file" in answers["ctxtune.train absent.yaml"][0]
    for command in ("sweep", "train"):
        assert 'did you mean "epsilon"' in answers[f"ctxtune.{command} space.yaml"][0]
    assert 'did you mean "trials"' in answers["ctxtune.sweep cars.yaml"][0]
    assert 'did you mean "seeds"' in answers["ctxtune.ablate ablation.yaml"][0]
    assert {line: heavy for line, (_, heavy) in answers.items() if heavy} == {}
