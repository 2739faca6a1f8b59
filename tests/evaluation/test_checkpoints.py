"""`python -m ctxtune.evaluate`: scores, exports and reports of real checkpoints; wrong inputs told in one message."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ctxtune import evaluate, train
from ctxtune.command_line import run_command
from ctxtune.data import ValidationSettings, load, split
from ctxtune.errors import CtxtuneError, TrackingError
from ctxtune.evaluation import read_checkpoint
from ctxtune.float32_products import allow_tf32
from ctxtune.models.exported import load_exported
from ctxtune.tracking import all_test_scorings
from ctxtune.training import CheckpointFolder, load_checkpoint, save_checkpoint
from ctxtune.tuning.record.journal import Journal
from ctxtune.tuning.record.run_spec import RunSpec
from tests.helpers.tracking import new_store
from tests.helpers.trees import write_image

TRIAL_FILE = """
name: tiny
trial:
  dataset: {name: glyphs, image_size: 32}
  model: {backbone: small_conv, width: 8, embedding_dim: 16}
  sampler: {batch_size: 32, batches_per_epoch: 4}
  optimizer: {lr: 3.0e-3}
  schedule: {name: cosine, epochs: 1}
  image: {train_crop: 32, min_scale: 0.6, flip: false, test_resize: null, test_crop: null}
  evaluation: {every: 1}
validation: {use: [1]}
"""
FOLD = ["--set", "validation.use=[1]"]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory) -> Path:
    """The folder of a real, short run on fold 1."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "tiny.yaml").write_text(TRIAL_FILE)
    with pytest.MonkeyPatch.context() as patch:
        command = [
            "train",
            str(folder / "tiny.yaml"),
            "--results",
            str(folder / "results"),
            "--quiet",
            "--device",
            "cpu",
        ]
        patch.setattr(sys, "argv", command)
        assert train.main() == 0
    return folder / "results" / "tiny" / "train-seed0"


@pytest.fixture(scope="module")
def recorded(run_folder) -> dict[str, float]:
    return json.loads((run_folder / "result.json").read_text())["metrics"]


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the command in this process: its standard output."""

    def call(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["evaluate", *map(str, arguments), "--device", "cpu"])
        assert evaluate.main() == 0
        return capsys.readouterr().out

    return call


def brute_force(embeddings: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Recall@1 and MAP@R over whole sorted rankings."""
    unit = embeddings.astype(np.float64) / np.linalg.norm(embeddings.astype(np.float64), axis=1, keepdims=True)
    rates = unit @ unit.T
    np.fill_diagonal(rates, -np.inf)
    order = np.argsort(-rates, axis=1, kind="stable")[:, :-1]
    hits = labels[order] == labels[:, None]
    precisions = []
    for row in hits:
        total = row.sum()
        precision = np.cumsum(row[:total]) / np.arange(1, total + 1)
        precisions.append((precision * row[:total]).sum() / total)
    return hits[:, 0].mean(), float(np.mean(precisions))


def test_the_score_of_a_run_is_what_the_run_recorded_and_what_its_export_gives(run, run_folder, recorded, tmp_path):
    exported = tmp_path / "new" / "model.pt"
    found = json.loads(run(run_folder, *FOLD, "--json", "--per-class", "--export", exported))
    assert {f"validation/{name}": value for name, value in found["scores"].items()}.items() >= {
        name: value for name, value in recorded.items() if name.startswith("validation/")
    }.items()
    # An independent way to the same numbers: the written file, pictures one by one, whole rankings.
    validation = split(load("glyphs", image_size=32).train, ValidationSettings())[1].validation
    model = load_exported(exported)
    embeddings = torch.cat([model.embed([validation.read(i) for i in range(s, min(s + 256, len(validation)))])
                            for s in range(0, len(validation), 256)]).numpy()  # fmt: skip
    recall, precision = brute_force(embeddings, validation.labels)
    assert found["scores"]["recall_at_1"] == pytest.approx(recall, abs=2e-3)
    assert found["scores"]["map_at_r"] == pytest.approx(precision, abs=1e-3)
    one = found["runs"][0]
    assert (one["fold"], one["queries"], one["queries_without_match"]) == (1, len(validation), 0)
    classes = one["classes"]
    assert {row["label"] for row in classes} == set(validation.labels.tolist())
    assert [row["map_at_r"] for row in classes] == sorted(row["map_at_r"] for row in classes)
    weighted = sum(row["map_at_r"] * row["queries"] for row in classes) / len(validation)
    assert weighted == pytest.approx(found["scores"]["map_at_r"])


def test_the_table_names_what_was_scored(run, run_folder, recorded):
    said = run(run_folder / "epoch-00001.pt", *FOLD, "--recall-at", 1, 3)
    assert "glyphs, validation classes, fold 1 of 4 (class_folds, seed 0), epoch 1" in said
    for words in ("Recall@1", "Recall@3", "MAP@R", "R-precision", "MRR", "queries without match"):
        assert words in said
    assert "Recall@2" not in said
    assert f"{recorded['validation/recall_at_1']:.4f}" in said


def test_the_lines_of_the_classes_are_the_worst_first(run, run_folder):
    said = run(run_folder, *FOLD, "--per-class")
    lines = said.partition("by class\n")[2].splitlines()
    assert lines[0].split() == ["queries", "R@1", "R@2", "R@4", "R@8", "MAP@R", "R-prec", "MRR", "class"]
    worst, best = (lines[row].split() for row in (1, -1))
    assert float(worst[5]) < float(best[5])
    assert " ".join(worst[8:]).split()[1] in {"LATIN", "GREEK", "CYRILLIC", "ARMENIAN", "GEORGIAN"}
    assert len(lines) == 1 + len(
        set(split(load("glyphs", image_size=32).train, ValidationSettings())[1].validation.labels)
    )


def test_another_fold_than_the_one_the_run_left_out_is_noticed(run, run_folder, recorded):
    with pytest.warns(UserWarning, match=f"recorded {recorded['validation/map_at_r']:.4f}.*perhaps others"):
        run(run_folder, "--json", "--set", "validation.use=[2]")


def test_test_classes_are_scored_only_on_demand_and_said_to_be(run, run_folder):
    with pytest.warns(UserWarning, match="test classes were scored by hand; this is not in the ledger"):
        found = json.loads(run(run_folder, "--split", "test", "--json", "--recall-at", 1))
    assert found["runs"][0]["queries"] == len(load("glyphs", image_size=32).test)


@pytest.mark.parametrize("allowed", [False, True])
def test_products_are_taken_in_the_numbers_that_the_configuration_allows(run, run_folder, allowed):
    def tf32() -> bool:
        matmul = torch.backends.cuda.matmul
        return matmul.fp32_precision == "tf32" if hasattr(matmul, "fp32_precision") else matmul.allow_tf32

    before = tf32()
    try:
        allow_tf32(not allowed)
        run(run_folder, *FOLD, "--json", "--set", f"trial.tf32={str(allowed).lower()}")
        assert tf32() == allowed
    finally:
        allow_tf32(before)


def test_a_checkpoint_with_several_folds_scores_each_on_its_own(run, run_folder, tmp_path):
    state = load_checkpoint(run_folder / "epoch-00001.pt")
    save_checkpoint({**state, "protocol": {}, "runs": state["runs"] * 2}, tmp_path / "two.pt")
    found = json.loads(run(tmp_path / "two.pt", "--set", "validation.use=[1, 3]", "--json"))
    first, second = found["runs"]
    assert (first["fold"], second["fold"]) == (1, 3)
    assert first["map_at_r"] != second["map_at_r"]
    assert found["scores"]["map_at_r"] == pytest.approx((first["map_at_r"] + second["map_at_r"]) / 2)
    with pytest.raises(CtxtuneError, match="choose one with --fold"):
        run(tmp_path / "two.pt", "--export", tmp_path / "model.pt")
    run(tmp_path / "two.pt", "--fold", 1, "--no-score", "--export", tmp_path / "model.pt")
    assert (tmp_path / "model.pt").is_file()


def in_a_sweep(run_folder: Path, sweep: Path, stage: str, folds: tuple[int, ...]) -> Path:
    """The checkpoint as that of a sweep's run, with the sweep's own journal around it."""
    state = load_checkpoint(run_folder / "epoch-00001.pt")
    spec = RunSpec(
        key="trial-0000", stage=stage, arm="trial-0000", point={}, trial=state["runs"][0]["config"],
        validation=ValidationSettings(), folds=folds, seed_index=0, seed=state["runs"][0]["seed"],
    )  # fmt: skip
    journal = Journal(sweep / "journal.jsonl")
    journal.asked(spec)
    journal.close()
    folder = sweep / "checkpoints" / "search-1" / "trial-0000" / "checkpoint_000000"
    save_checkpoint({**state, "protocol": {}}, folder / "checkpoint.pt")  # as before checkpoints said it themselves
    return folder


def test_a_run_of_a_sweep_is_scored_on_its_own_fold(run, run_folder, recorded, tmp_path):
    found = json.loads(run(in_a_sweep(run_folder, tmp_path, "search", (1,)), "--json"))
    assert found["runs"][0]["fold"] == 1
    assert found["scores"]["map_at_r"] == recorded["validation/map_at_r"]


def test_a_damaged_journal_around_a_checkpoint_is_not_believed(run, run_folder, tmp_path):
    folder = in_a_sweep(run_folder, tmp_path, "search", (1,))
    journal = tmp_path / "journal.jsonl"
    whole = journal.read_bytes()
    assert whole.count(b'"folds":[1]') == 1
    journal.write_bytes(whole.replace(b'"folds":[1]', b'"folds":[2]'))
    with pytest.raises(
        CtxtuneError, match=r"journal.jsonl:2: damaged \(its checksum does not match\), .*--set validation.use"
    ):
        run(folder)
    journal.write_bytes(whole + b'{"event":"torn')
    assert json.loads(run(folder, "--json"))["runs"][0]["fold"] == 1


def test_a_confirmation_has_no_validation_fold(run, run_folder, tmp_path):
    folder = in_a_sweep(run_folder, tmp_path, "confirmation", ())
    with pytest.raises(CtxtuneError, match=r"it was trained on all train classes.*--split test"):
        run(folder)


def test_a_copied_checkpoint_still_knows_which_classes_it_has_seen(run, run_folder, tmp_path):
    state = load_checkpoint(run_folder / "epoch-00001.pt")
    protocol = {**state["protocol"], "stage": "confirmation", "folds": []}
    save_checkpoint({**state, "protocol": protocol}, tmp_path / "best.pt")
    with pytest.raises(CtxtuneError, match=r"it was trained on all train classes.*--split test"):
        run(tmp_path / "best.pt")


def query_and_gallery(root: Path) -> Path:
    """A small data set with separate query and gallery, one picture of which is broken."""
    for name, images in {"train": 2, "query": 2, "gallery": 3}.items():
        lines = ["image_id class_id super_class_id path"]
        for label in range(4):
            for image in range(images):
                path = f"{name}/{label}_{image}.png"
                write_image(root / path, seed=label, size=(32, 32))
                lines.append(f"{len(lines)} {label + (10 if name != 'train' else 0)} 0 {path}")
        (root / f"{name}.txt").write_text("\n".join(lines) + "\n")
    (root / "gallery" / "3_1.png").write_bytes(b"broken")
    return root


def test_another_data_set_with_query_and_gallery(run, run_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("CTXTUNE_CACHE", str(tmp_path / "cache"))
    root = query_and_gallery(tmp_path / "own")
    page = tmp_path / "page.html"
    with pytest.warns(UserWarning, match="by hand"):
        found = json.loads(
            run(run_folder, "--data", "image_list", root, "--set", "trial.dataset.max_unreadable=0.5", "--split", "test",
                "--recall-at", 1, 2, "--gallery-report", page, "--worst", 3, "--json")
        )  # fmt: skip
    one = found["runs"][0]
    assert (one["queries"], one["gallery"], one["unreadable_images_left_out"]) == (8, 11, 1)
    assert found["scores"]["recall_at_1"] == 1.0  # the pictures of a class are equal
    assert page.read_text().count('<div class="query">') == 3


def test_the_gallery_report_is_one_page(run, run_folder, tmp_path):
    page = tmp_path / "reports" / "errors.html"
    run(run_folder, *FOLD, "--gallery-report", page, "--worst", 4)
    text = page.read_text(encoding="utf-8")
    assert text.count('<div class="query">') == 4
    assert text.count('<figure class="retrieved asked">') == 4
    assert "LATIN" in text
    assert "<svg" in text
    assert not any(address in text for address in ("http://", "https://"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "cars196", "/nowhere/at/all"], "/nowhere/at/all"),
        (["--data", "glyfs", "-"], 'did you mean "glyphs"'),
        (["--set", "trial.model.embedding_dim=8"], "the checkpoint was made with its own model"),
        (["--set", "trial.image.test_crop=few"], "trial.image.test_crop"),
        (["--set", "results=1"], "begin with trial. or validation."),
        (["--set", "trial=5"], "trial: expected a block of keys; found 5"),
        (["--set", "trial.image.test_crop=yes"], "trial.image.test_crop: expected a number; found true"),
        (["--threads", "-1"], "--threads -1"),
        (["--threads", "100000000"], "--threads 100000000"),
        (["--fold", "3"], "--fold 3"),
        (["--set", "validation.use=[0, 1]"], "names 2 fold"),
        ([*FOLD, "--recall-at", "99999"], "99999"),
        (["--recall-at", "0"], "from 1 on"),
        (["--tracking-uri", "sqlite:///x.db"], "--split test"),
        (["--no-score"], "goes with --export"),
        (["--export", "model.weights", "--no-score"], "stands for no export format"),
    ],
)
def test_wrong_input_is_told(run, run_folder, arguments, message):
    with pytest.raises(CtxtuneError, match=message):
        run(run_folder, *arguments)


def test_what_is_no_checkpoint_is_told(run, tmp_path):
    (tmp_path / "notes.txt").write_text("not a checkpoint")
    torch.save({"weights": torch.zeros(3)}, tmp_path / "other.pt")
    save_checkpoint({"something": "else"}, tmp_path / "odd.pt")
    for name, message in {
        "notes.txt": "notes.txt: not a checkpoint$",
        "other.pt": "not a checkpoint of this version",
        "odd.pt": "it holds no runs",
        "missing.pt": "no such checkpoint",
        ".": "the folder holds no checkpoint",
    }.items():
        with pytest.raises(CtxtuneError, match=message):
            run(tmp_path / name)


def test_a_wrong_input_leaves_one_message_and_status_2(monkeypatch, capsys, tmp_path):
    missing = tmp_path / "missing.pt"
    monkeypatch.setattr(sys, "argv", ["evaluate", str(missing)])
    with pytest.raises(SystemExit) as stopped:
        run_command(evaluate.main)
    assert stopped.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines() == [f"error: {missing}: no such checkpoint"]


def test_a_scoring_of_test_classes_is_entered_in_the_ledger(run, run_folder, tmp_path):
    uri = new_store(tmp_path)
    with pytest.warns(UserWarning, match="by hand; entered in the ledger"):
        found = json.loads(run(run_folder, "--split", "test", "--recall-at", 1, "--tracking-uri", uri, "--json"))
    (entry,) = all_test_scorings(uri)["glyphs"]
    assert (entry.kind, entry.state) == ("evaluation", "completed")
    assert entry.metrics["test/map_at_r"] == found["scores"]["map_at_r"]
    assert entry.params["model.width"] == "8"


def test_without_the_ledger_asked_for_nothing_is_scored(run, run_folder, tmp_path):
    (tmp_path / "mlflow.db").write_text("not a database")
    with pytest.raises(TrackingError):
        run(run_folder, "--split", "test", "--tracking-uri", f"sqlite:///{tmp_path}/mlflow.db", "--json")


@pytest.mark.parametrize(
    "change",
    [
        {"runs": [5]}, {"runs": {"a": 1}}, {"runs": []}, {"runs": None}, {"protocol": 5}, {"protocol": {"validation": 7}},
        {"runs": [{"config": 5, "model": {}, "epoch": 1}]}, {"runs": [{"config": {}, "model": {}, "epoch": "x"}]},
    ],
)  # fmt: skip
def test_what_has_not_the_form_of_a_checkpoint_is_told(run_folder, tmp_path, change):
    state = load_checkpoint(CheckpointFolder(run_folder).paths()[-1])
    torch.save({**state, **change}, tmp_path / "changed.pt")
    with pytest.raises(CtxtuneError, match=r"not a checkpoint of ctxtune\.train or of a sweep"):
        read_checkpoint(tmp_path / "changed.pt", [])


def test_a_long_name_is_told(tmp_path):
    with pytest.raises(CtxtuneError, match="File name too long"):
        read_checkpoint(tmp_path / ("x" * 300), [])
