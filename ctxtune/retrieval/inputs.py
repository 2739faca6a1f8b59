"""Checks of what users pass in, and labels of any integer type made into small class numbers."""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

ArrayLike = Tensor | np.ndarray
# A tile of similarities stays in the processor's cache; a GPU wants larger products.


def as_matrix(embeddings: ArrayLike, name: str) -> Tensor:
    """The embeddings as a torch tensor; ValueError, naming `name`, unless they are a floating-point matrix."""
    if isinstance(embeddings, np.ndarray):
        if embeddings.dtype.kind != "f":
            raise ValueError(f"{name} must be floating-point, found numpy {embeddings.dtype}")
        if embeddings.dtype.itemsize > 8:
            raise ValueError(f"{name} must be of at most 64 bits, found numpy {embeddings.dtype}")
        native = np.ascontiguousarray(embeddings, dtype=embeddings.dtype.newbyteorder("="))
        with warnings.catch_warnings():
            # Nothing is ever written to it, and a copy of a read-only memory map could be too large.
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            embeddings = torch.from_numpy(native)
    if not isinstance(embeddings, Tensor):
        raise ValueError(f"{name} must be a torch tensor or a numpy array, found {type(embeddings).__name__}")
    if not embeddings.is_floating_point():
        raise ValueError(f"{name} must be floating-point, found {embeddings.dtype}")
    if embeddings.ndim != 2 or embeddings.shape[0] == 0 or embeddings.shape[1] == 0:
        raise ValueError(f"{name} must have the shape (items, dimensions), neither 0; found {tuple(embeddings.shape)}")
    return embeddings.detach()


@dataclass(frozen=True)
class Classes:
    """Class numbers 0 .. c-1 of queries (q,) and gallery (g,), int64 on the device, and the label that each stands for."""

    queries: Tensor
    gallery: Tensor
    labels: np.ndarray


def number_classes(
    query_labels: ArrayLike | Sequence[int],
    gallery_labels: ArrayLike | Sequence[int] | None,
    device: torch.device,
) -> Classes:
    """Number the classes without ever passing a label through a floating-point type.

    Raises ValueError for labels that are not a vector of integers.
    """
    queries = _as_integers(query_labels, "query_labels")
    if gallery_labels is None:
        labels, codes = np.unique(queries, return_inverse=True)
        numbers = torch.from_numpy(codes.astype(np.int64)).to(device)
        return Classes(numbers, numbers, labels)
    gallery = _as_integers(gallery_labels, "gallery_labels")
    if queries.dtype != gallery.dtype and np.uint64 in (queries.dtype, gallery.dtype):
        queries, gallery = queries.astype(object), gallery.astype(object)  # numpy would join them as float64
    labels, codes = np.unique(np.concatenate([queries, gallery]), return_inverse=True)
    numbers = torch.from_numpy(codes.astype(np.int64)).to(device)
    return Classes(numbers[: len(queries)], numbers[len(queries) :], labels)


def _as_integers(labels: ArrayLike | Sequence[int], name: str) -> np.ndarray:
    array = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    if array.dtype == object and all(isinstance(label, int) and not isinstance(label, bool) for label in array.flat):
        pass
    elif array.dtype.kind not in "iu":
        raise ValueError(f"{name} must be integers, found {array.dtype}")
    if array.ndim != 1:
        raise ValueError(f"{name} must have the shape (items,), found {array.shape}")
    return array


def check_recall_at(recall_at: Iterable[int], available: int) -> tuple[int, ...]:
    """The distinct cut-offs in ascending order; ValueError unless each is an integer from 1 to `available`."""
    if not isinstance(recall_at, Iterable):
        raise ValueError(f"recall_at must be a sequence of integers, found {recall_at!r}")
    cutoffs = tuple(recall_at)
    for cutoff in cutoffs:
        if isinstance(cutoff, bool) or not isinstance(cutoff, (int, np.integer)) or cutoff < 1:
            raise ValueError(f"recall_at must hold positive integers, found {cutoff!r}")
        if cutoff > available:
            raise ValueError(f"recall_at holds {cutoff}, but a query has only {available} gallery items to choose from")
    return tuple(sorted({int(cutoff) for cutoff in cutoffs}))


def working_device(queries: ArrayLike) -> torch.device:
    """The queries' device if it computes in float64, else the CPU."""
    return queries.device if isinstance(queries, Tensor) and queries.is_cuda else torch.device("cpu")
