"""One training step: forward, loss over the whole batch, backward, optimizer."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from ctxtune.config.trial import TrialSettings
from ctxtune.errors import RunFailed
from ctxtune.losses import TrainingLoss
from ctxtune.losses.numerics import at_least_float32
from ctxtune.models import EmbeddingModel
from ctxtune.models.settings import is_own_class
from ctxtune.training.compilation import CompiledWithFallback
from ctxtune.training.health import FiniteFlag, non_finite
from ctxtune.training.optimization import all_parameters
from ctxtune.training.precision import Precision, autocast, channels_last
from ctxtune.training.process_group import ProcessGroup
from ctxtune.training.recording import StepRecorder, recording_allowed

Randomness = tuple[Tensor, Tensor | None]


class TrainingStep:
    """Moves the weights by one batch.

    The loss always sees the whole batch, also where the images go through the model in micro-batches or are shared by
    several processes. Then the embeddings are computed first, the gradient of the loss with respect to them is taken,
    and handed back to the model piece by piece (Gao et al., "Scaling deep contrastive learning batch size under
    memory limited setup", 2021); micro-batches are computed a second time for that, with the same random numbers.

    On a GPU, where the batch goes through the model in one piece, the model's passes are recorded as CUDA graphs after
    a few steps and replayed from then on (`recorder`; None where they are not). Not with torch.compile, and not with a
    backbone of one's own, whose Python may do something else at each call.

    Args:
        trial: the resolved configuration.
        model, loss, optimizer, scaler: what is trained, all on `device`.
        precision: of the forward pass.
        world: the processes that train together.
    """

    def __init__(
        self,
        trial: TrialSettings,
        model: EmbeddingModel,
        loss: TrainingLoss,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        *,
        precision: Precision,
        device: torch.device,
        world: ProcessGroup,
    ) -> None:
        self.model, self.loss, self.optimizer, self.scaler = model, loss, optimizer, scaler
        self.precision, self.device, self.world = precision, device, world
        self.finite = FiniteFlag(device)
        self._micro_batch = trial.optimizer.micro_batch
        self._clip = trial.optimizer.gradient_clip
        self._forward = _TrainingEmbedding(model)
        self._compile = trial.compile
        self._own_loss = is_own_class(trial.loss.name)
        self._call = self._compiled(self._forward)
        self._parallel: DistributedDataParallel | None = None
        self._parallel_over: list[int] = []
        self._loss_randomness = self._generators()
        self._epoch = 0
        self.recorder: StepRecorder | None = None
        alone = not (self._compile or world.is_distributed or self._micro_batch or is_own_class(trial.model.backbone))
        if alone and device.type == "cuda" and recording_allowed():
            self.recorder = StepRecorder(self._forward, self._embed_to_record)

    def seed(self, seed: int, epoch: int) -> None:
        """What model and loss draw from here on (dropout, miners) follows from seed and epoch, not from the past.

        Each process draws numbers of its own for its images, but all of them the same for the loss: it is one loss.
        """
        self._epoch = epoch
        torch.manual_seed(_drawn_from(seed, epoch, 0))
        self._loss_randomness = self._generators()
        torch.manual_seed(_drawn_from(seed, epoch, self.world.rank))

    def prepare(self) -> None:
        """To be called before the first step, and where other parameters are trained from now on (head warm-up)."""
        if not self.world.is_distributed:
            return
        trained = [id(parameter) for parameter in self._forward.parameters() if parameter.requires_grad]
        if trained == self._parallel_over:
            return
        self._parallel_over = trained
        self._parallel = DistributedDataParallel(self._forward, broadcast_buffers=False, gradient_as_bucket_view=True)
        self._call = self._compiled(self._parallel)

    def __call__(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Take a step.

        Args:
            images: (b, 3, h, w) float32 on the device: this process's share of the batch; features (b, channels) for a
                head alone.
            labels: (b,) int64 on the device, contiguous class numbers.

        Returns:
            The loss's terms over the whole batch, detached, on the device.
        """
        self.optimizer.zero_grad(set_to_none=True)
        terms = self._replayed(images, labels)
        if terms is None:
            images = channels_last(images)
            pieces = [images] if self._micro_batch is None else list(images.split(self._micro_batch))
            alone = len(pieces) == 1 and not self.world.is_distributed
            terms = self._whole(images, labels) if alone else self._in_pieces(pieces, labels)
        if self._clip is not None:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(all_parameters(self.optimizer), self._clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return terms

    def _whole(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The gradients of a batch in one piece."""
        embeddings = self._embed(images)
        total, terms = self._loss_of(embeddings, labels)
        self.finite.update(total, embeddings)
        self.scaler.scale(total).backward()
        return terms

    def _replayed(self, images: Tensor, labels: Tensor) -> dict[str, Tensor] | None:
        """The same by a recording of the model's passes; None where there is none (yet)."""
        found = None if self.recorder is None else self.recorder.find(images)
        if found is None:
            return None
        embeddings = found.forward(images).requires_grad_()
        total, terms = self._loss_of(embeddings, labels)
        self.finite.update(total, embeddings)
        self.scaler.scale(total).backward()
        if embeddings.grad is not None:
            found.backward(embeddings.grad)
        return terms

    def _compiled(self, module: nn.Module) -> Callable[[Tensor], Tensor]:
        # The first pass over micro-batches is not compiled, and the second has to draw the same numbers.
        return CompiledWithFallback(module, same_draws=self._micro_batch is not None) if self._compile else module

    def _embed(self, images: Tensor) -> Tensor:
        with autocast(self.precision, self.device):
            embeddings = self._call(images)
        return at_least_float32(embeddings)

    def _embed_to_record(self, parameters: dict[str, Tensor], images: Tensor) -> Tensor:
        with autocast(self.precision, self.device, cached=False):
            embeddings = torch.func.functional_call(self._forward, parameters, (images,))
        return at_least_float32(embeddings)

    def _in_pieces(self, pieces: list[Tensor], labels: Tensor) -> dict[str, Tensor]:
        """The gradients of the loss over all pieces and all processes."""
        alone = self._embed(pieces[0]) if len(pieces) == 1 else None
        random: list[Randomness] = []
        own = alone.detach() if alone is not None else self._first_pass(pieces, random)
        embeddings = self.world.gather(own).requires_grad_()
        total, terms = self._whole_loss(embeddings, self.world.gather(labels))
        self.finite.update(total, embeddings)
        self.scaler.scale(total).backward()
        assert embeddings.grad is not None
        # DistributedDataParallel takes the mean over processes, the loss is one loss over all of them: a sum.
        gradient = embeddings.grad[self.world.share(len(embeddings))] * self.world.size
        self.world.average_gradients(self.loss)
        if alone is not None:
            alone.backward(gradient)
            return terms
        for number, (piece, part) in enumerate(zip(pieces, gradient.split(len(pieces[0])), strict=True)):
            with self._gradients_stay(until_last=number == len(pieces) - 1), self._drawing_from(random[number]):
                self._embed(piece).backward(part)
        return terms

    def _whole_loss(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss over all processes' images: equal in all of them, what it draws at random included."""
        if not self.world.is_distributed:
            return self._loss_of(embeddings, labels)
        with self._drawing_from(self._loss_randomness):
            result: tuple[Tensor, dict[str, Tensor]] = self._loss_of(embeddings, labels)
            self._loss_randomness = self._generators()
        return result

    @torch.no_grad()
    def _first_pass(self, pieces: list[Tensor], random: list[Randomness]) -> Tensor:
        """The embeddings of all pieces, and in `random` where the generators stood before each of them."""
        embeddings = []
        # Batch norm takes the batch into its running statistics in the second pass only.
        with _running_statistics_kept(self.model):
            for piece in pieces:
                random.append(self._generators())
                with autocast(self.precision, self.device):
                    embeddings.append(at_least_float32(self._forward(piece)))
        return torch.cat(embeddings)

    def _gradients_stay(self, *, until_last: bool) -> AbstractContextManager[object]:
        """Gradients are exchanged between processes with the last piece only."""
        return nullcontext() if until_last or self._parallel is None else self._parallel.no_sync()

    def _loss_of(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss; what a miner or a loss says of embeddings that are not finite is told as what it is.

        Raises:
            RunFailed: an embedding is not finite, and the loss cannot be computed for that; or one of our losses refuses
                the batch, which has fewer images than its k, say.
        """
        try:
            result: tuple[Tensor, dict[str, Tensor]] = self.loss(embeddings, labels)
        except Exception as error:
            if not bool(torch.isfinite(embeddings.detach()).all()):
                raise non_finite(self._epoch) from error
            if isinstance(error, ValueError) and not self._own_loss:
                raise RunFailed("error", f"the loss: {error}") from error
            raise
        return result

    def _generators(self) -> Randomness:
        """Where the generators stand: the CPU's and, on a GPU, the device's."""
        return torch.get_rng_state(), torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None

    @contextmanager
    def _drawing_from(self, state: Randomness) -> Iterator[None]:
        """Random numbers from where the generators stood once; afterwards they stand where they stand now."""
        cpu, cuda = state
        with torch.random.fork_rng([self.device] if cuda is not None else [], device_type="cuda"):
            torch.set_rng_state(cpu)
            if cuda is not None:
                torch.cuda.set_rng_state(cuda, self.device)
            yield


def _drawn_from(seed: int, epoch: int, rank: int) -> int:
    return int(np.random.SeedSequence([seed, epoch, rank]).generate_state(1)[0])


class _TrainingEmbedding(nn.Module):
    """Images to what the loss sees, as one module."""

    def __init__(self, model: EmbeddingModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model.project(self.model(images))


@contextmanager
def _running_statistics_kept(model: nn.Module) -> Iterator[None]:
    layers = [layer for layer in model.modules() if isinstance(layer, _BatchNorm) and layer.training]
    tracking = [layer.track_running_stats for layer in layers]
    for layer in layers:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer, tracked in zip(layers, tracking, strict=True):
            layer.track_running_stats = tracked
