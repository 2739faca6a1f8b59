"""Where every random number starts: one seed per stage and index, so that no two stages ever share one."""

import zlib

import numpy as np


def stage_seed(stage: str, index: int) -> int:
    """The seed of the ``index``-th repetition in a stage (trial, selection, confirmation, cell, train).

    Arms of a comparison take the same index, and so meet the same data order, initial weights and label noise.

    >>> stage_seed("confirmation", 0) == stage_seed("confirmation", 0)
    True
    >>> stage_seed("confirmation", 0) == stage_seed("selection", 0)
    False
    """
    if index < 0:
        raise ValueError(f"a seed's index counts from 0, not {index}")
    sequence = np.random.SeedSequence([zlib.crc32(stage.encode()), index])
    # 31 bits: every library that we seed takes them.
    return int(sequence.generate_state(1)[0] >> 1)
