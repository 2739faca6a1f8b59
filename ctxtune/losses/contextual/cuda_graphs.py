"""The closed form recorded as CUDA graphs: one launch in place of about a hundred."""

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from ctxtune.losses.contextual.closed_form import closed_form, sparse_from
from ctxtune.losses.contextual.terms import HybridTerms

# Shapes that are kept; a training run has one or two.
_MOST_RECORDINGS = 8
_WARM_UPS = 3


@dataclass
class _Recording:
    """A graph, the tensors it reads and those it writes."""

    graph: torch.cuda.CUDAGraph
    embeddings: Tensor
    labels: Tensor
    total: Tensor
    values: tuple[Tensor | None, ...]
    gradient: Tensor | None


class CudaGraphs:
    """`closed_form` for small whole batches on a GPU, recorded at the first call with a shape and replayed after it.

    Anything else (a CPU, a reference set, mined pairs, large batches, whose sparse forms look at the data) goes to
    `closed_form` itself, as does everything once a recording has failed. Copies and pickles start without recordings.
    """

    def __init__(self) -> None:
        self._recordings: dict[tuple[object, ...], _Recording] = {}
        self._failed = False

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return CudaGraphs, ()

    def __call__(
        self,
        embeddings: Tensor,
        labels: Tensor,
        terms: HybridTerms,
        rows: int,
        allowed: Tensor | None,
        with_gradient: bool,
    ) -> tuple[Tensor, tuple[Tensor | None, ...], Tensor | None]:
        """See `closed_form`."""
        small = embeddings.is_cuda and len(embeddings) < sparse_from(embeddings.device)
        whole = rows == len(embeddings) and allowed is None
        if self._failed or not (small and whole) or torch.cuda.is_current_stream_capturing():
            return closed_form(embeddings, labels, terms, rows, allowed, with_gradient)
        key = (embeddings.shape, embeddings.dtype, embeddings.device, labels.dtype, terms, with_gradient)
        recording = self._recordings.get(key)
        if recording is None:
            if len(self._recordings) >= _MOST_RECORDINGS:
                self._recordings.clear()
            try:
                recording = _record(embeddings, labels, terms, with_gradient)
            except Exception as error:  # noqa: BLE001 - whatever it is, the loss itself does not need a recording
                self._failed = True
                self._recordings.clear()
                reason = next(iter(str(error).splitlines()), type(error).__name__)
                warnings.warn(f"the loss could not be recorded ({reason}); going on without", stacklevel=2)
                return closed_form(embeddings, labels, terms, rows, allowed, with_gradient)
            self._recordings[key] = recording
        recording.embeddings.copy_(embeddings)
        recording.labels.copy_(labels)
        recording.graph.replay()
        # Copies, as the next replay overwrites what this one wrote.
        values = tuple(None if value is None else value.clone() for value in recording.values)
        gradient = None if recording.gradient is None else recording.gradient.clone()
        return recording.total.clone(), values, gradient


def _record(embeddings: Tensor, labels: Tensor, terms: HybridTerms, with_gradient: bool) -> _Recording:
    inputs = embeddings.detach().clone(), labels.clone()
    arguments = (*inputs, terms, len(embeddings), None, with_gradient)
    with torch.cuda.device(embeddings.device), torch.no_grad():
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UPS):
                closed_form(*arguments)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # thread_local: other threads (image loading, say) go on using the device meanwhile.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            total, values, gradient = closed_form(*arguments)
    return _Recording(graph, *inputs, total, values, gradient)
