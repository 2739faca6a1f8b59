"""The two dense passes over a tile of similarities: list the pairs that reach a bound, count those above one.

On the CPU numpy compares and lists two to four times faster than torch does; on a GPU torch it is.
"""

import numpy as np
import torch
from torch import Tensor


def list_between(values: Tensor, low: Tensor, high: Tensor | None, axis: int) -> tuple[Tensor, Tensor]:
    """Positions along axis 0 and 1 where low <= values (n, m) <= high; bounds are (n,) for axis 0, (m,) for axis 1."""
    lower = low.to(values.dtype).unsqueeze(1 - axis)
    upper = None if high is None else high.to(values.dtype).unsqueeze(1 - axis)
    if values.device.type != "cpu":
        mask = values >= lower
        if upper is not None:
            mask ^= values > upper
        rows, columns = mask.nonzero(as_tuple=True)
        return rows, columns
    found = values.numpy() >= lower.numpy()
    if upper is not None:
        found ^= values.numpy() > upper.numpy()
    flat = np.flatnonzero(found)
    rows_found, columns_found = np.divmod(flat, values.shape[1])
    return torch.from_numpy(rows_found), torch.from_numpy(columns_found)


def count_above(values: Tensor, bound: Tensor, axis: int, scratch: Tensor) -> Tensor:
    """How many values (n, m) are > bound in each row (axis 0, bound (n,)) or column (axis 1, bound (m,)), int64.

    `scratch` (n, m) float32 is overwritten. Writing 0.0 and 1.0 and adding them is several times faster on the CPU
    than a mask of booleans, and exact below 2^24.
    """
    limits = bound.to(values.dtype).unsqueeze(1 - axis)
    torch.gt(values, limits, out=scratch)
    return scratch.sum(dim=1 - axis).long()
