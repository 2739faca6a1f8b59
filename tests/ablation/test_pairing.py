"""Arms with the same seed index share all randomness."""

import numpy as np
import torch

from ctxtune.ablation.runs import cell_specs
from ctxtune.config import Ablation, cells_of, load_ablation
from ctxtune.tuning.record.journal import Journal
from ctxtune.tuning.run_trainer import open_trainer

SMALL = ["trial.model.width=8", "trial.dataset.image_size=16", "trial.image.train_crop=16"]


def specs(ablation: Ablation, tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    return list(cell_specs(ablation, cells_of(ablation), journal))


def open_run(spec):
    trainer = open_trainer(spec, device="cpu")
    (run,) = trainer.runs
    return run


def test_two_arms_start_from_the_same_weights_and_see_the_same_images_in_the_same_order(repository, tmp_path):
    overrides = [*SMALL, "variants.proxy_anchor={loss.name: proxy_anchor}", "factors.dataset.label_noise=[0.0, 0.3]"]
    ablation = load_ablation(repository / "ablations/quickstart.yaml", overrides)
    chosen = [each for each in specs(ablation, tmp_path) if each.arm.endswith("label_noise=0.3")]
    runs = {(each.arm.split(",")[0], each.seed_index): open_run(each) for each in chosen if each.seed_index < 2}
    first, other = runs["full", 0], runs["proxy_anchor", 0]
    for one, two in zip(first.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(one, two)
    for epoch in (0, 3):
        assert np.array_equal(first._sampler.epoch(epoch), other._sampler.epoch(epoch))
    assert np.array_equal(
        first.splits.fit.labels, other.splits.fit.labels
    )  # the same images have the same wrong labels
    assert np.array_equal(first.splits.query.rows, other.splits.query.rows)
    pixels = [next(iter(run._images.batches(run._sampler.epoch(0)[:1], 0)))[0] for run in (first, other)]
    assert torch.equal(*pixels)  # augmented alike
    fresh = runs["full", 1]
    assert not torch.equal(next(first.model.parameters()), next(fresh.model.parameters()))
    assert not np.array_equal(first._sampler.epoch(0), fresh._sampler.epoch(0))
    assert not np.array_equal(first.splits.fit.labels, fresh.splits.fit.labels)
    for run in runs.values():
        run.close()


def test_another_head_leaves_the_weights_of_the_backbone_the_same(repository, tmp_path):
    ablation = load_ablation(
        repository / "ablations/quickstart.yaml",
        [
            *SMALL,
            "variants.no_query_expansion=null",
            "variants.contrastive_only=null",
            "factors.model.embedding_dim=[16, 64]",
        ],
    )
    narrow, wide = (open_run(each) for each in specs(ablation, tmp_path)[:2])
    assert narrow.model.embedding_dim != wide.model.embedding_dim
    for one, two in zip(narrow.model.backbone.parameters(), wide.model.backbone.parameters(), strict=True):
        assert torch.equal(one, two)
    narrow.close()
    wide.close()


def test_seeds_differ_between_repeats_and_are_the_same_in_all_cells(repository, tmp_path):
    ablation = load_ablation(repository / "ablations/quickstart.yaml", ["seeds=3", "validation.use=[0, 1]"])
    seeds: dict[str, list[tuple[int, tuple[int, ...]]]] = {}
    for each in specs(ablation, tmp_path):
        seeds.setdefault(each.arm, []).append((each.seed, each.folds))
    assert len({tuple(each) for each in seeds.values()}) == 1
    assert len(set(seeds["full"])) == 6 and len({seed for seed, _ in seeds["full"]}) == 3
