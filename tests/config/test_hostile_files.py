"""Files and overrides that nobody would write: one message each, no traceback, no endless work."""

import random
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ctxtune.config import load_ablation, load_search_space, load_trial_file
from ctxtune.config.design import cells_of
from ctxtune.config.source import Override
from ctxtune.errors import CtxtuneError

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = sorted([*ROOT.glob("search_spaces/*.yaml"), *ROOT.glob("ablations/*.yaml")])
QUICK = (ROOT / "search_spaces/quickstart.yaml").read_text(encoding="utf-8")
HOSTILE = [
    "", "~", "no", "yes", "1e5", "0200", "1:30", "2026-25-11", "0x_", "9" * 400, "9" * 5000, "-1", "0", "1e999", ".nan", ".inf",
    "[]", "{}", "[[]]", "{a: 1}", "[1, [2]]", "{{ NAME }}", "*x", "&x [*x]", "!!binary aa", '"\\0"', "²", "٣", "1_0", "0b1",
    "9223372036854775807", "-9223372036854775808", "1e308", "5e-324", "x" * 300, "x" * 20_000, "~nobody/x", "/dev/zero",
    "[uniform]", "{uniform: [0, 1]}", "{choice: [[1], [2]]}", "{choice: [1, true, yes]}", "{int: [0, 9e15]}",
    "{quniform: [0, 1, 1e-300]}", "{loguniform: [1e-320, 1]}", "a/b:c", "os:path", "package.module:Class", "\x1b[31m", "\x00",
    "'a' * 100000000000", "[1] * 100000000000", "9**9**9", "1/0 > 1", "not " * 400 + "1", "(" * 500, "loss.k", "a.b.c < 1",
]  # fmt: skip


def answer(load, path: Path, overrides=()) -> str | None:
    """The message, or None where the file is taken. Whatever else is raised fails the test."""
    try:
        load(path, overrides)
    except CtxtuneError as error:
        assert len(str(error)) < 40_000
        return str(error)
    return None


LOADERS = (load_search_space, load_ablation, load_trial_file)


def _mutated(text: str, dice: random.Random) -> str:
    """A text with some of its pieces taken out, doubled, exchanged, or replaced by hostile ones."""
    pieces = re.findall(r"\w+|\s+|[^\w\s]", text)
    for _ in range(dice.randint(1, 4)):
        at = dice.randrange(len(pieces))
        match dice.randrange(5):
            case 0:
                del pieces[at]
            case 1:
                pieces.insert(at, dice.choice(HOSTILE))
            case 2:
                pieces[at] = dice.choice(HOSTILE)
            case 3:
                other = dice.randrange(len(pieces))
                pieces[at], pieces[other] = pieces[other], pieces[at]
            case _:
                pieces[at:at] = pieces[at : at + dice.randint(1, 30)]
    return "".join(pieces)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), shipped=st.sampled_from(SHIPPED))
def test_shipped_files_with_random_faults(tmp_path, seed, shipped):
    path = tmp_path / "file.yaml"
    text = _mutated(shipped.read_text(encoding="utf-8"), random.Random(seed))
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    for load in LOADERS:
        answer(load, path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=400))
def test_random_bytes(tmp_path, content):
    path = tmp_path / "file.yaml"
    path.write_bytes(content)
    for load in LOADERS:
        assert answer(load, path)


PATHS = [
    "name", "trial", "trial.dataset", "trial.dataset.name", "trial.dataset.root", "trial.dataset.lists", "trial.model.weights",
    "trial.loss", "trial.loss.name", "trial.loss.k", "trial.loss.miner", "trial.loss.memory", "trial.loss.contextual",
    "trial.schedule.epochs", "trial.schedule.milestones", "trial.evaluation.recall_at", "trial.recipe", "trial.image.ratio",
    "trial.image.test_resize", "validation", "validation.use", "search", "search.space", "search.space.loss.k",
    "search.constraints", "search.constraints.0", "search.conditions", "search.conditions.loss.k", "search.ties",
    "search.start_from", "search.start_from.0", "search.start_from.²", "search.objective", "search.objective.0",
    "search.trials", "select", "confirm", "resources.gpus", "tracking.uri", "variants", "variants.full", "factors", "seeds",
    "tune_each", "tune_each.space", "tune_each.spaces", "compare", "reference", "base", "base.best_of", "design", "", ".",
    "a..b", ".".join("a" * 5000), "x" * 5000,
]  # fmt: skip


@settings(max_examples=120, deadline=None)
@given(
    path=st.sampled_from(PATHS), value=st.sampled_from(HOSTILE), quoted=st.booleans(), shipped=st.sampled_from(SHIPPED)
)
def test_hostile_overrides(path, value, quoted, shipped):
    text = f"{path}={value}" if not quoted else f"{path}=['{value}']"
    for load in LOADERS:
        answer(load, shipped, [text])


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("trial.schedule.epochs=yes", "trial.schedule.epochs: expected a number; found true"),
        ("trial.evaluation.recall_at=[1, yes]", "trial.evaluation.recall_at: expected a number"),
        ("name=no", 'YAML reads no as false; put it in quotes: "no"'),
        ("name=20261125", 'YAML reads 20261125 as a number; put it in quotes: "20261125"'),
        ("name=" + "x" * 300, "name: expected at most 100 characters"),
        ("trial.loss.name=[1]", "trial.loss.name: unknown loss: [1]; expected the name of a loss"),
        ("trial.dataset.root=~nobody-of-that-name/x", "trial.dataset.root"),
        ("search.start_from.²=1", "search.start_from is a list of 1"),
        ("a..b=1", "the key is a path"),
        ("search.trials=" + "9" * 400, "400 characters is too long"),
        ("search.trials=9000000000", "search.trials: expected a number of at most"),
        ("search.constraints=['loss.negativ_margin < 1']", 'did you mean "loss.negative_margin"?'),
        ("search.constraints=['loss.negative_margin > 5']", "breaks a constraint"),
        ("search.constraints=['loss.negative_margin == 0.6']", "search.constraints: no point was found"),
        ("search.constraints=['loss.k / 0 > 1']", "breaks a constraint"),
        ("search.constraints=[\"'a' * 99999999999 == 'b'\"]", "arithmetic is for numbers"),
        ("search.constraints=['9 ** 9 ** 9 > 1']", "allowed are"),
        ("search.conditions={loss.k: \"loss.nme == 'x'\"}", 'did you mean "loss.name"?'),
        ("search.space.loss.epsilon={uniform: [0, 1e300]}", "bounds lie within"),
        ("search.space.loss.epsilon={quniform: [0, 1, 1.0e-300]}", "step 1e-300 is too small"),
    ],
)
def test_overrides_are_answered_with_key_and_remedy(override, words):
    message = answer(load_search_space, ROOT / "search_spaces/quickstart.yaml", [override])
    assert message is not None and words in message and len(message.splitlines()) == 1


def test_a_name_that_is_given_as_text_is_taken_literally():
    for name in ("20261125", "no", "1e5", "2026-25-11", "0200"):
        space = load_search_space(ROOT / "search_spaces/quickstart.yaml", [Override("name", name, f"--name {name}")])
        assert space.name == name


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (QUICK.replace("name: quickstart", "name: 20261125"), 'space.yaml:4: name: expected text; YAML reads 20261125 as a'),
        (QUICK.replace("name: quickstart", "name: 2026-25-11"), "space.yaml:4: name: 2026-25-11 is a date in YAML"),
        (QUICK.replace("name: quickstart", "name: {{ NAME }}"), "space.yaml:4: name: {{ NAME }} is a placeholder"),
        (QUICK.replace("trials: 20", "trials: 0200"), "search.trials: 0200 with its leading 0 is octal"),
        (QUICK.replace("trials: 20", "trials: 1:30"), "search.trials: 1:30 counts in sixties"),
        (QUICK.encode("utf-16"), "not a text in UTF-8 but in UTF-16"),
        (QUICK.encode("utf-16-le"), "it looks like UTF-16"),
        (QUICK.replace("laptop", "l\u00e4ptop").encode("latin-1"), "space.yaml:2: not a text in UTF-8"),
        (b"\0" * 1000, "UTF-16"),
        (b"a: 1\n" * 100_000, "more than 250 kB"),
        ("- 1", "expected a mapping of keys"),
        (QUICK + "".join(f"wrong{i}: 1\n" for i in range(5000)), "and 4,9"),
    ],
)  # fmt: skip
def test_files_are_answered_with_line_key_and_remedy(tmp_path, content, words):
    path = tmp_path / "space.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    message = answer(load_search_space, path)
    assert message is not None and words in message


def test_a_mark_at_the_beginning_of_the_text_is_no_part_of_it(tmp_path):
    path = tmp_path / "space.yaml"
    path.write_bytes(QUICK.encode("utf-8-sig"))
    assert load_search_space(path).name == "quickstart"


@pytest.mark.parametrize(
    "path", ["/dev/zero", "/", "/proc/self/mem", "x" * 300 + ".yaml", "x/" * 3000, "loop.yaml", "a\0b.yaml"]
)
def test_what_is_no_file_of_settings_is_answered(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    Path("loop.yaml").symlink_to("loop.yaml")
    assert answer(load_search_space, Path(path))


def test_variables_cannot_bring_in_what_files_cannot(tmp_path, monkeypatch):
    path = tmp_path / "space.yaml"
    path.write_text(QUICK.replace("name: quickstart", 'name: "${HOSTILE_NAME}"'))
    monkeypatch.setenv("HOSTILE_NAME", "a\x1b[31mb")
    assert "what the environment fills in" in (answer(load_search_space, path) or "")


def test_a_cell_with_a_long_name_has_a_key_that_files_can_be_called_by():
    names = ["x" * 90 + "1", "x" * 90 + "2"]
    factors = "factors={dataset.label_noise: [0, 0.1], optimizer.weight_decay: [0, 0.1], optimizer.lr: [0.001, 0.002]}"
    variants = f"variants={{{names[0]}: {{}}, {names[1]}: {{loss.k: 2}}}}"
    ablation = load_ablation(
        ROOT / "ablations/quickstart.yaml", [variants, factors, "reference=null", "tune_each=null"]
    )
    keys = [cell.key for cell in cells_of(ablation)]
    assert len(set(keys)) == len(keys) == 16 and max(map(len, keys)) <= 120


def test_too_many_cells_are_refused_before_they_are_made(tmp_path):
    levels = ", ".join(str(number / 1000) for number in range(200))
    paths = ("dataset.label_noise", "dataset.image_noise", "optimizer.weight_decay")
    factors = "factors={" + ", ".join(f"{path}: [{levels}]" for path in paths) + "}"
    message = answer(load_ablation, ROOT / "ablations/quickstart.yaml", [factors])
    assert message is not None and "cells are too many" in message


@pytest.mark.parametrize("name", ["x" * 300, "x" * 20_000, "~nobody/x", "/dev/zero", "a/" * 3000, "."])
def test_a_base_that_cannot_be_a_file(tmp_path, name):
    file = tmp_path / "ablation.yaml"
    text = (ROOT / "ablations/batch_size.yaml").read_text(encoding="utf-8")
    file.write_text(re.sub(r"(?m)^base:.*$", f"base: {name}", text), encoding="utf-8")
    assert "base: " in (answer(load_ablation, file) or "")


def test_a_key_makes_no_line_of_its_own(tmp_path):
    file = tmp_path / "space.yaml"
    file.write_text(QUICK + '"a\\nerror: made up": 1\n', encoding="utf-8")
    message = answer(load_search_space, file) or ""
    assert "a\\nerror: made up: unknown key" in message and "\n" not in message
