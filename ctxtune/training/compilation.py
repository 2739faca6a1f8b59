"""torch.compile where it works, the plain module where it does not."""

import warnings
from typing import Any

import torch
from torch import Tensor, nn

_OWN_ERRORS = (KeyboardInterrupt, torch.OutOfMemoryError)


class CompiledWithFallback:
    """Calls a module through torch.compile; if the compiler fails, the module itself is called from then on.

    No parameter or buffer gets another name by it, so that checkpoints do not depend on it.

    Args:
        module: one tensor in, one out.
        same_draws: draw the random numbers (dropout, stochastic depth) that the plain module would draw from the same
            state of the generator; the compiler's own are others. A few more kernels.
    """

    def __init__(self, module: nn.Module, *, same_draws: bool = False) -> None:
        self._module = module
        self._compiled: Any = torch.compile(module, options={"fallback_random": True} if same_draws else None)

    @property
    def fell_back(self) -> bool:
        """Whether the compiler has failed."""
        return self._compiled is None

    def __call__(self, images: Tensor) -> Tensor:
        """The module's output."""
        if self._compiled is None:
            result: Tensor = self._module(images)
            return result
        try:
            result = self._compiled(images)
        except _OWN_ERRORS:
            raise
        except Exception as error:  # noqa: BLE001 - the compiler may raise anything
            result = self._module(images)  # raises itself where it is the module that is at fault
            self._compiled = None
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            warnings.warn(f"torch.compile failed ({reason}); going on without it", stacklevel=2)
        return result
