"""The model's forward and backward pass recorded as CUDA graphs: two launches in place of about a thousand.

What a step costs the host then is next to nothing, so that the threads that read images no longer hold it up.
"""

import gc
import os
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ctxtune.training.precision import channels_last

SWITCH = "CTXTUNE_CUDA_GRAPHS"
"""Environment variable: 0 keeps every step unrecorded."""
STEPS_BEFORE = 3
"""Steps that are taken as usual before a recording, and set up all that must not be set up during one."""


_LIVING: weakref.WeakSet["RecordedPass"] = weakref.WeakSet()
"""All recordings of this process. Those on one device share their memory: a step is over, its gradients used, before
another run's begins, so that folds trained in turn take the activations' memory once, as they do without recordings."""


_SPOILT: set[object] = set()
"""Pools of recordings that failed: an allocator that takes one to be under way refuses to begin another there."""


def recording_allowed() -> bool:
    """Whether `SWITCH` leaves recording on."""
    return os.environ.get(SWITCH, "1") != "0"


class RecordedPass:
    """Forward and backward pass for one shape of images, with the tensors that they read and write.

    Recording runs nothing: no statistic of batch norm moves and no random number is drawn. A replay draws what the
    plain pass would have drawn.

    Args:
        embed: images to embeddings, computed with `leaves`, without autocast's cache of weights, which a replay would
            find stale.
        images: of the shape to record, on the device.
        parameters: whose gradients are taken.
        leaves: the same memory as each parameter's, apart from it for autograd.
        pool: of memory, from `torch.cuda.graph_pool_handle` or another recording on the device.

    Raises:
        RuntimeError: the embeddings depend on a parameter past its leaf.
    """

    def __init__(
        self,
        embed: Callable[[Tensor], Tensor],
        images: Tensor,
        parameters: Sequence[nn.Parameter],
        leaves: Sequence[Tensor],
        pool: Any,
    ) -> None:
        self._images = channels_last(images.detach().clone())
        self._parameters = parameters
        self.device, self.pool = images.device, pool
        self._forward, self._backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        # thread_local: other threads (image loading, say) go on using the device meanwhile.
        with torch.cuda.graph(self._forward, pool=pool, capture_error_mode="thread_local"):
            embeddings = embed(self._images)
        self._gradient = torch.empty_like(embeddings, requires_grad=False)
        with torch.cuda.graph(self._backward, pool=pool, capture_error_mode="thread_local"):
            found = torch.autograd.grad(embeddings, [*leaves, *parameters], self._gradient, allow_unused=True)
            if any(gradient is not None for gradient in found[len(leaves) :]):
                raise RuntimeError("a layer reads a parameter that is not an attribute of it")
            self._gradients = [
                None if gradient is None else _laid_out_as(parameter, gradient)
                for parameter, gradient in zip(parameters, found[: len(leaves)], strict=True)
            ]
        self._embeddings = embeddings.detach()
        _LIVING.add(self)

    def forward(self, images: Tensor) -> Tensor:
        """Embeddings (n, d) in memory of their own, detached."""
        self._images.copy_(images, non_blocking=True)
        self._forward.replay()
        return self._embeddings.clone()

    def backward(self, gradient: Tensor) -> None:
        """Set each parameter's `grad` from the gradient (n, d) of the embeddings that `forward` gave last."""
        self._gradient.copy_(gradient)
        self._backward.replay()
        for parameter, its in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = its


class StepRecorder:
    """Records a module's passes once a few equal steps have been taken; goes on without where that fails.

    Args:
        module: whose parameters are trained.
        embed: images to embeddings by the module with other tensors in place of its parameters (by name, the first
            argument); without autocast's cache of weights.
        kind: makes a recording, from what `RecordedPass` takes.
    """

    def __init__(
        self,
        module: nn.Module,
        embed: Callable[[dict[str, Tensor], Tensor], Tensor],
        kind: Callable[..., RecordedPass] = RecordedPass,
    ) -> None:
        self._embed, self._kind = embed, kind
        self._parameters, self._modules = dict(module.named_parameters()), list(module.modules())
        self._recorded: RecordedPass | None = None
        self._shape: tuple[object, ...] = ()
        self._modes: tuple[bool, ...] = ()
        self._seen = 0
        self.failed = False

    @property
    def recorded(self) -> bool:
        """Whether steps are replayed by now."""
        return self._recorded is not None

    def find(self, images: Tensor) -> RecordedPass | None:
        """The recording for such images and what is trained at present; None: take this step as usual."""
        if self.failed:
            return None
        shape = images.shape, images.dtype
        modes = (
            *(each.requires_grad for each in self._parameters.values()),
            *(each.training for each in self._modules),
        )
        if (shape, modes) != (self._shape, self._modes):
            if modes == self._modes and self._recorded is not None:
                return None  # a batch that lacks an image; the usual ones come again
            self._shape, self._modes, self._seen, self._recorded = shape, modes, 0, None
        if self._recorded is None:
            self._seen += 1
            if self._seen > STEPS_BEFORE:
                self._recorded = self._record(images)
        return self._recorded

    def _record(self, images: Tensor) -> RecordedPass | None:
        trained = {name: parameter for name, parameter in self._parameters.items() if parameter.requires_grad}
        if not trained:
            return None
        # Autograd gives each leaf a node of the stream on which it is first used. That of a parameter lives as long as
        # anything of the last step does, and one of another stream than the recording's would end the recording.
        leaves = {name: parameter.detach().requires_grad_() for name, parameter in trained.items()}
        arguments = partial(self._embed, leaves), images, list(trained.values()), list(leaves.values())
        if images.device.type != "cuda":
            return self._kind(*arguments, None)
        living = (each.pool for each in _LIVING if each.device == images.device)
        shared = next((pool for pool in living if pool not in _SPOILT), None)
        pool = torch.cuda.graph_pool_handle() if shared is None else shared
        random = torch.cuda.get_rng_state(images.device)
        try:
            # The stream of now is set again afterwards, also where a recording ends in the middle.
            stream = torch.cuda.stream(torch.cuda.current_stream(images.device))
            with _nothing_freed_meanwhile(images.device), torch.cuda.device(images.device), stream:
                return self._kind(*arguments, pool)
        except Exception as error:  # noqa: BLE001 - whatever it is, the step itself does not need a recording
            self.failed = True
            _SPOILT.add(pool)
            _clear_up(images.device, pool, random)
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            warnings.warn(f"the training step could not be recorded ({reason}); going on without", stacklevel=2)
            return None


@contextmanager
def _nothing_freed_meanwhile(device: torch.device) -> Iterator[None]:
    """No garbage collection during a recording: recordings of an earlier run that it would free end one that is under way."""
    gc.collect()
    torch.cuda.synchronize(device)
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def _laid_out_as(parameter: nn.Parameter, gradient: Tensor) -> Tensor:
    """The gradient with the strides of its parameter, as fused optimizers want it."""
    if gradient.stride() == parameter.stride() and gradient.dtype == parameter.dtype:
        return gradient
    return torch.empty_like(parameter, requires_grad=False).copy_(gradient)


def _clear_up(device: torch.device, pool: Any, random: Tensor) -> None:
    """What a recording that failed may leave behind: an allocator and a generator that take it to be under way."""
    index = torch.cuda.current_device() if device.index is None else device.index
    torch.cuda.synchronize(device)
    with suppress(Exception):
        torch._C._cuda_endAllocateToPool(index, pool)  # type: ignore[attr-defined]
    with suppress(Exception):
        fresh = torch.Generator(device=device)
        fresh.set_state(random)
        torch.cuda.default_generators[index].graphsafe_set_state(fresh.graphsafe_get_state())
