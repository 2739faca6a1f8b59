"""Draw the contextual similarity of a small batch, step by step: python docs/figures/contextual_loss.py OUT.png"""

import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch

from ctxtune.losses import contextual_similarity

CLASSES, IMAGES = 4, 4


def batch() -> torch.Tensor:
    """(16, 16) cosine similarities of four classes of four images; the last image of each lies between two classes."""
    generator = torch.Generator().manual_seed(3)
    centers = torch.nn.functional.normalize(torch.randn(CLASSES, 16, generator=generator), dim=1)
    rows = centers.repeat_interleave(IMAGES, 0) + 0.12 * torch.randn(CLASSES * IMAGES, 16, generator=generator)
    rows[IMAGES - 1 :: IMAGES] += 0.8 * centers.roll(1, 0)
    rows = torch.nn.functional.normalize(rows, dim=1)
    return rows @ rows.T


def main(path: str) -> None:
    """Write the figure."""
    similarities = batch()
    options = {"k": IMAGES, "epsilon": 0.05}
    labels = torch.arange(CLASSES).repeat_interleave(IMAGES)
    panels = {
        "cosine similarity s": similarities,
        "neighborhood N (step 2)": contextual_similarity(
            similarities, **options, overlap="none", query_expansion=False
        ),
        "overlap W1 (step 3)": contextual_similarity(similarities, **options, query_expansion=False),
        "similarity w (step 5)": contextual_similarity(similarities, **options),
        "target y: same class": (labels[:, None] == labels[None]).float(),
    }
    figure, axes = plt.subplots(1, len(panels), figsize=(15, 3), layout="constrained")
    for axis, (title, values) in zip(axes, panels.items(), strict=True):
        picture = axis.imshow(values, cmap="cividis", vmin=min(0.0, float(values.min())), vmax=1.0)
        axis.set_title(title, fontsize=10)
        axis.set_xticks(range(0, 16, IMAGES), [f"class {c}" for c in range(CLASSES)], fontsize=7)
        axis.set_yticks(range(0, 16, IMAGES), [f"class {c}" for c in range(CLASSES)], fontsize=7)
        figure.colorbar(picture, ax=axis, shrink=0.9)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main(sys.argv[1])
