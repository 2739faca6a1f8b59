"""How much is worked on at once.

On a CPU pieces that stay in its caches are quickest. On a GPU an operation costs the host some ten microseconds however
small it is, so that pieces are as large as the memory allows. What comes out is the same.
"""

import torch

TILE_ON_CPU = 1024
TILES_ON_GPU = (16384, 8192, 4096, 2048)
TILE_ON_SEVERAL_GPUS = 4096
LARGEST_TILE = 65536
# Bytes that a pair takes where all of a tile are listed (a full ranking); six otherwise, some fifty where it is exact.
PAIR_BYTES = 128
# Of the memory that is free, a tile may take this share.
FREE_SHARE = 0.5
CLASS_ELEMENTS, CLASS_ELEMENTS_ON_GPU = 2**18, 2**22
PAIR_ELEMENTS, PAIR_ELEMENTS_ON_GPU = 2**19, 2**23


def tile_rows(chunk_size: int | None, device: torch.device, *, alone: bool = True) -> int:
    """Queries and gallery items that are compared at once: `chunk_size`, or what suits the device and its free memory.

    Unless `alone`, other processes take tiles of the same work, and the number does not depend on this one's memory.
    Raises ValueError unless `chunk_size` is from 1 to 65536.
    """
    if chunk_size is None:
        if device.type != "cuda":
            return TILE_ON_CPU
        if not alone:
            return TILE_ON_SEVERAL_GPUS
        most = FREE_SHARE * _free_bytes(device)
        return next((rows for rows in TILES_ON_GPU if PAIR_BYTES * rows**2 <= most), TILES_ON_GPU[-1])
    if isinstance(chunk_size, bool) or not isinstance(chunk_size, int) or not 1 <= chunk_size <= LARGEST_TILE:
        raise ValueError(f"chunk_size must be an integer from 1 to {LARGEST_TILE}, found {chunk_size!r}")
    return chunk_size


def class_elements(device: torch.device) -> int:
    """Elements of embeddings of one class or of several that are compared with each other at once."""
    return CLASS_ELEMENTS_ON_GPU if device.type == "cuda" else CLASS_ELEMENTS


def pair_elements(device: torch.device) -> int:
    """Elements of embeddings of pairs that are compared one by one."""
    return PAIR_ELEMENTS_ON_GPU if device.type == "cuda" else PAIR_ELEMENTS


def _free_bytes(device: torch.device) -> int:
    """What the device has left, and what torch holds of it unused."""
    free, _ = torch.cuda.mem_get_info(device)
    return int(free) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
