"""One training as a state between any two steps: network, optimiser, random stream, and what has been measured.

Losses and gradient norms stay on the device during an epoch; they are looked at once it is over, so that the host never
waits for a step.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from eigengrad_lab.config import RunConfig, UsageError
from eigengrad_lab.data import ImageData, draw_crops
from eigengrad_lab.distributed import ONE_PROCESS, Processes
from eigengrad_lab.models import build

__all__ = ["GUESS_SHARE", "PATIENCE", "EpochMetrics", "Result", "Training"]

EVALUATION_BATCH = 512
GUESS_SHARE = 0.95
PATIENCE = 3
"""A run has diverged when it ends with a training loss above this share of a guess's, ``log(classes)``, or has been
there for this many epochs in a row. A network whose weights one huge gradient has scattered stays there."""


@dataclass(frozen=True)
class EpochMetrics:
    """One line of ``metrics.jsonl``."""

    epoch: int
    """Epochs completed, counted from 1."""
    step: int
    """Steps completed since the start of the run."""
    train_loss: float
    """Mean cross-entropy of the epoch's mini-batches, in nats, or of those before the failure."""
    test_error_pct: float
    learning_rate: float
    largest_gradient_norm: float
    """Largest total gradient norm over the epoch's steps."""
    seconds: float


@dataclass(frozen=True)
class Result:
    """How a run ended. A run that failed is a result like any other."""

    succeeded: bool
    test_error_pct: float | None
    """Error of the last epoch; ``None`` for a run that failed."""
    failed_at_step: int | None = None
    reason: str | None = None
    seconds: float = 0.0

    def __post_init__(self) -> None:
        if self.succeeded != (self.test_error_pct is not None and math.isfinite(self.test_error_pct)):
            raise ValueError(f"a run has an error if it succeeded, and only then, got {self.test_error_pct}")

    def __str__(self) -> str:
        if self.succeeded:
            return f"{self.test_error_pct:.2f}% test error"
        return f"failed at step {self.failed_at_step}: {self.reason}"


class Training:
    """One run at some step.

    Args:
        config: what to train.
        data: its images, on the device to train on.
        processes: those that share each batch.

    Raises:
        UsageError: if a batch is too small for them.
    """

    def __init__(self, config: RunConfig, data: ImageData, processes: Processes = ONE_PROCESS) -> None:
        device = data.train_images.device
        self.config, self.data, self.processes = config, data, processes
        smallest = len(data.train_labels) % config.batch_size or config.batch_size
        if smallest // processes.size < min(2, smallest):
            raise UsageError(f"the smallest batch has {smallest} images, too few for {processes.size} processes")
        self.mean, self.std = data.moments()
        self.generator = torch.Generator(device).manual_seed(config.seed)  # order, crops, random starts
        torch.manual_seed(config.seed)  # initial weights
        self.network = build(
            config,
            image_channels=data.train_images.shape[1],
            classes=data.classes,
            generator=self.generator,
            process_group=processes.process_group,
        ).to(device)
        self.model = processes.parallelised(self.network, device)
        self.optimizer = torch.optim.SGD(
            self.model.parameters(),
            lr=config.learning_rate,
            momentum=config.sgd_momentum,
            weight_decay=config.weight_decay,
        )
        self.steps_per_epoch = math.ceil(len(data.train_labels) / config.batch_size)
        self.metrics: list[EpochMetrics] = []
        self._begin_epoch()

    def _begin_epoch(self) -> None:
        self.order: Tensor | None = None  # of the training images; None before the epoch's first step
        self.trace: list[Tensor] = []  # loss and gradient norm of each step
        self.failure: str | None = None
        self.seconds_before, self.started = 0.0, time.monotonic()

    @property
    def epoch(self) -> int:
        """Epochs completed."""
        return len(self.metrics)

    @property
    def step(self) -> int:
        """Steps completed."""
        return self.epoch * self.steps_per_epoch + len(self.trace)

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return self.config.epochs * self.steps_per_epoch

    def run_epoch(self) -> Iterator[None]:
        """Train to the end of the epoch, a step at a time; a decomposition that fails ends it early."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate_at(self.epoch)
        self.model.train()
        if self.order is None:
            count, device = len(self.data.train_labels), self.data.train_labels.device
            self.order = torch.randperm(count, generator=self.generator, device=device)
        for chosen in self.order.split(self.config.batch_size)[len(self.trace) :]:
            try:
                self.trace.append(self._step(chosen))
            except torch.linalg.LinAlgError as error:
                self.failure = f"decomposition failed ({str(error).partition('.')[0]})"
                return
            yield

    def end_epoch(self) -> Result | None:
        """Evaluate, and record the epoch; a result if the run is over."""
        epoch, device = self.epoch + 1, self.data.train_labels.device
        measured = torch.stack(self.trace) if self.trace else torch.zeros(0, 2, device=device)
        finite = measured.isfinite()
        good = int(finite.all(dim=1).int().cumprod(0).sum())  # steps before the first that is not finite
        if good < len(measured):
            self.failure = f"{'gradient' if finite[good, 0] else 'loss'} is not finite"
        failure, step = self.failure, self.epoch * self.steps_per_epoch + good
        self.metrics.append(
            EpochMetrics(
                epoch=epoch,
                step=step,
                train_loss=measured[:good, 0].mean().item(),
                test_error_pct=math.nan if failure else self._evaluate(),
                learning_rate=self.config.learning_rate_at(epoch - 1),
                largest_gradient_norm=measured[:good, 1].amax().item() if good else math.nan,
                seconds=self.seconds_before + time.monotonic() - self.started,
            )
        )
        self._begin_epoch()
        return self._failed(step + 1, failure) if failure else self._outcome()

    def _step(self, chosen: Tensor) -> Tensor:
        """One step of SGD on the chosen images. Loss and gradient norm, ``(2,)``, on the device."""
        data, share, count = self.data, self.processes.share(len(chosen)), len(chosen)
        crops = draw_crops(count, *data.train_images.shape[2:], pad=data.pad, flip=data.flip, generator=self.generator)
        own = chosen[share]
        images = self._standardised(crops[share].of(data.train_images[own], data.pad))
        losses = nn.functional.cross_entropy(self.model(images), data.train_labels[own], reduction="sum")
        loss = losses * (self.processes.size / count)
        self.optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.get_total_norm([p.grad for p in self.model.parameters() if p.grad is not None])
        self.optimizer.step()
        return torch.stack([self.processes.sum(loss.detach()) / self.processes.size, norm])

    @torch.no_grad()
    def _evaluate(self) -> float:
        """Error on the test images, in percent; the processes take the batches in turn."""
        self.processes.broadcast_buffers(self.network)
        self.network.eval()
        images, labels = self.data.test_images, self.data.test_labels
        wrong = torch.zeros((), dtype=torch.long, device=labels.device)
        batches = list(zip(images.split(EVALUATION_BATCH), labels.split(EVALUATION_BATCH), strict=True))
        for batch, expected in batches[self.processes.rank :: self.processes.size]:
            wrong += (self.network(self._standardised(batch)).argmax(dim=1) != expected).sum()
        return 100 * self.processes.sum(wrong).item() / len(labels)

    def _standardised(self, images: Tensor) -> Tensor:
        return (images.float() - self.mean) / self.std

    def _outcome(self) -> Result | None:
        """The result after an epoch, or ``None`` for a run that goes on."""
        last = self.metrics[-1]
        ended = self.epoch == self.config.epochs
        guess = math.log(self.data.classes)
        lost = [epoch.train_loss > GUESS_SHARE * guess for epoch in self.metrics[-PATIENCE:]]
        if (ended and lost[-1]) or (len(lost) == PATIENCE and all(lost)):
            return self._failed(last.step, f"diverged (training loss {last.train_loss:.2f}, a guess has {guess:.2f})")
        return Result(succeeded=True, test_error_pct=last.test_error_pct, seconds=self._seconds()) if ended else None

    def _failed(self, step: int, reason: str) -> Result:
        return Result(False, None, failed_at_step=step, reason=reason, seconds=self._seconds())

    def _seconds(self) -> float:
        return sum(epoch.seconds for epoch in self.metrics)

    def state_dict(self) -> dict[str, Any]:
        """Everything the next step depends on."""
        return {
            "metrics": [asdict(epoch) for epoch in self.metrics],
            "order": self.order,
            "trace": torch.stack(self.trace) if self.trace else None,
            "seconds": self.seconds_before + time.monotonic() - self.started,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a :meth:`state_dict`."""
        self.metrics = [EpochMetrics(**epoch) for epoch in state["metrics"]]
        self._begin_epoch()
        self.order, self.seconds_before = state["order"], state["seconds"]
        self.trace = [] if state["trace"] is None else list(state["trace"].unbind())
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"].cpu())
