"""Write the table of all losses: python docs/figures/losses_table.py > docs/losses.md"""

import json
import sys

from ctxtune.losses import loss_names
from ctxtune.losses.registry import loss_entry

HEAD = """# Losses

In YAML a loss is chosen by name, and its options stand beside it; what a loss does not know is refused.

    loss: {name: contextual, contextual_weight: 0.8, k: 4, epsilon: 0.05, positive_margin: 0.75, negative_margin: 0.6}

In Python, `ContextualLoss` stands wherever a loss of pytorch-metric-learning does:

```python
from ctxtune.losses import ContextualLoss, build_loss

loss = ContextualLoss(contextual_weight=0.8, k=4)  # or build_loss("proxy_anchor", num_classes=98, embedding_dim=512)
loss(embeddings, labels).backward()  # (n, d) of any length, (n,)
```

The batch needs several images of each class: the contextual loss compares neighborhoods with classes.

Each loss can be combined, in its block, with a `miner` (where the table says so), a cross-batch `memory`, and a
`contextual` term ("contextual + X"); the `regularizer` block adds the similarity regularizer to any of them. A loss of
your own is named `package.module:Class`; it is called with `(embeddings, labels)`, or as those of
pytorch-metric-learning are.

`proxies: image` gives `proxy_anchor` and `proxy_nca` as many proxies as there are training images, of which only the
first C ever have a positive. Their papers have one a class. The 224 px baselines of Liao et al. (ICML 2023) were run
with one an image: their code takes the number of images for that of classes.

| name | options and defaults | miner | weights | computed by | source |
|---|---|---|---|---|---|
"""


def row(name: str) -> str:
    """One loss as a line of the table."""
    entry = loss_entry(name)
    defaults = entry.options().model_dump(mode="json")
    options = ", ".join(f"`{key}: {json.dumps(value)}`".replace('"', "") for key, value in defaults.items())
    miner = entry.miner or ("possible" if entry.takes_miner else "-")
    weights = entry.proxies or ("with `learn_beta` one a class" if entry.trainable else "-")
    return f"| `{name}` | {options or '-'} | {miner} | {weights} | {entry.origin} | {entry.source} |"


if __name__ == "__main__":
    sys.stdout.write(HEAD + "\n".join(row(name) for name in loss_names()) + "\n")
