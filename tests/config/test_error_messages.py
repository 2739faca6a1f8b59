"""What is wrong with a value, said to someone who writes YAML, not Python."""

import subprocess
import sys

import pytest

from ctxtune.config import load_search_space
from ctxtune.errors import ConfigError
from tests.helpers.processes import environment


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("trial.model.embedding_dim=many", "trial.model.embedding_dim: expected a whole number; found 'many'"),
        ("trial.schedule.epochs=1.5", "trial.schedule.epochs: expected a whole number; found 1.5"),
        ("trial.optimizer.lr=-1", "trial.optimizer.lr: expected a number above 0; found -1"),
        ("trial.schedule.name=cosin", "found 'cosin'; did you mean \"cosine\"?"),
        ("trial.evaluation.recall_at=3", "trial.evaluation.recall_at: expected a list; found 3"),
        ("search.max_concurrent=some", "search.max_concurrent: expected 'auto' or a whole number; found 'some'"),
        ("select=4", "select: expected a block of keys; found 4"),
        ("search.space.loss.k={int: [1]}", "search.space.loss.k: int takes [low, high]"),
        ("trial.loss.kk=8", "--set trial.loss.kk=8: trial.loss.kk: unknown option of loss contextual: 'kk'"),
    ],
)
def test_wrong_values(repository, override, words):
    with pytest.raises(ConfigError) as caught:
        load_search_space(repository / "search_spaces/quickstart.yaml", [override])
    said = str(caught.value)
    assert words in said and len(said.splitlines()) == 1
    assert "Input should" not in said and "Value error" not in said and "found None" not in said


def test_a_missing_file_is_told_before_anything_slow_is_imported(repository, tmp_path):
    script = (
        "import sys, ctxtune.sweep as sweep\n"
        "from ctxtune.errors import ConfigError\n"
        "sys.argv = ['sweep', 'nothing.yaml']\n"
        "try:\n    sweep.main()\n"
        "except ConfigError as error:\n    print(error, 'torch' in sys.modules, 'ray' in sys.modules)\n"
    )
    (tmp_path / "other.yaml").write_text("")
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=environment(repository),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "nothing.yaml: no such file; in . there are other.yaml False False"
