"""A search space of four dimensions with a constraint and early stopping."""

from typing import Any

import yaml

from ctxtune.config import SweepConfig

METRIC = "validation/map_at_r"
TEXT = """
name: quick
trial:
  dataset: {name: glyphs}
  model: {backbone: small_conv}
  loss: {name: contextual, k: 4}
  schedule: {name: constant, epochs: 9}
  evaluation: {every: 1}
search:
  space:
    loss.k: {choice: [2, 4, 8]}
    loss.positive_margin: {uniform: [0.5, 0.95]}
    loss.negative_margin: {uniform: [0.1, 0.9]}
    optimizer.lr: {loguniform: [1.0e-5, 1.0e-2]}
  constraints: ["loss.negative_margin < loss.positive_margin"]
  scheduler: {name: asha, grace_epochs: 1}
"""


def space_of(**search: Any) -> SweepConfig:
    """The space, with other values in its block `search`."""
    tree = yaml.safe_load(TEXT)
    tree["search"].update(search)
    return SweepConfig.model_validate(tree)
