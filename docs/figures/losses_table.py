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

`noise_filter: {noise_rate: 0.2, window: 30, size: 8192}` leaves items with doubtful labels out of each batch before any
loss sees it (PRISM, Liu et al., CVPR 2021): an item is kept where softmax(centers · item) of its label, with the means
of each class's remembered embeddings as centers, lies above the mean of the `noise_rate` quantile over the last `window`
batches. It goes with every loss; `loss_kept_share` is logged.

What to know of some of them:

- `proxy_nca` is computed with the positive proxy in the denominator, as pytorch-metric-learning does. That is the
  softmax of ProxyNCA++: `proxy_nca_plus_plus` is the same loss by the temperature of its paper (1/9). What else
  ProxyNCA++ changes is in other blocks: `model: {pooling: max, layer_norm: true, layer_norm_affine: false}` and a large
  rate for proxies (`optimizer.lr_multipliers.loss`).
- `hist` trains its distributions at the loss's learning rate and its hypergraph network at a hundredth of it: with
  `lr: 1.0e-4` and `lr_multipliers: {loss: 1000}` these are the authors' 0.1 and 0.001.
- `potential_field` (PFML) is held to the paper's formula only: its authors published no code. Decay and radius are tuned
  there for each data set; search them.
- `hyperbolic` sees the embeddings as they are, lengths included; validation and test still rank by cosine similarity.
- `recall_at_k` follows the authors' code, in which a query counts in its own ranking, and SiMix (`mixing`) adds
  n (n - 1) / 2 virtual items for the n images of each class of a batch.
- `multi_similarity` has its paper's miner by default; `miner: null` is the loss alone.

`hist`, `recall_at_k`, `hyperbolic`, `proxy_nca_plus_plus` and the noise filter give the numbers of their authors' code
for the same input (`tests/losses/test_published_code.py`).

| name | options and defaults | miner | weights | computed by | source |
|---|---|---|---|---|---|
"""


def row(name: str) -> str:
    """One loss as a line of the table."""
    entry = loss_entry(name)
    defaults = entry.options().model_dump(mode="json")
    defaults.pop("proxies", None)  # told in the text
    options = ", ".join(f"`{key}: {json.dumps(value)}`".replace('"', "") for key, value in defaults.items())
    miner = entry.miner or ("possible" if entry.takes_miner else "-")
    weights = entry.proxies or ("with `learn_beta` one a class" if entry.trainable else "-")
    return f"| `{name}` | {options or '-'} | {miner} | {weights} | {entry.origin} | {entry.source} |"


if __name__ == "__main__":
    sys.stdout.write(HEAD + "\n".join(row(name) for name in loss_names()) + "\n")
