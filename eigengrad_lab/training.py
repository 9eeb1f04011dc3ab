"""One training as a state between any two steps: network, optimiser, random stream, and what has been measured.

Losses and gradient norms stay on the device during an epoch; they are looked at once it is over, so that the host never
waits for a step.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from eigengrad_lab.config import RunConfig, UsageError
from eigengrad_lab.data import ImageData, draw_crops
from eigengrad_lab.distributed import ONE_PROCESS, Processes
from eigengrad_lab.models import build

__all__ = ["GUESS_SHARE", "PATIENCE", "EpochMetrics", "Result", "Training", "judged"]

EVALUATION_BATCH = 512
GUESS_SHARE = 0.95
PATIENCE = 3
LEAST_STEPS = 30
LOST = 2.0
"""A guess has a training loss of ``log(classes)``. A run has diverged when its loss was above ``GUESS_SHARE`` of that
for ``PATIENCE`` epochs in a row, of ``LEAST_STEPS`` steps or more, or ends above it after it was below, or ends above
``LOST`` times a guess's: a network whose weights one huge gradient has scattered stays there. One that ends above it
without any of these was not trained long enough to tell."""


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
    """Of the epoch's first step."""
    largest_gradient_norm: float
    """Largest total gradient norm over the epoch's steps, before clipping."""
    seconds: float
    skipped_steps: int = 0
    """Steps without an update, because loss or gradient was not finite (``bad_steps="skip"``)."""


@dataclass(frozen=True)
class Result:
    """How a run ended. A run that failed is a result like any other."""

    succeeded: bool
    test_error_pct: float | None
    """Error of the last epoch; ``None`` for a run that failed."""
    failed_at_step: int | None = None
    reason: str | None = None
    seconds: float = 0.0
    undecided: bool = False
    """Neither a success nor a failure: not trained long enough."""
    peak_memory_mb: float | None = None
    """Largest memory of the process, or of the GPU's allocator, up to the end of the run."""

    def __post_init__(self) -> None:
        if self.succeeded != (self.test_error_pct is not None and math.isfinite(self.test_error_pct)):
            raise ValueError(f"a run has an error if it succeeded, and only then, got {self.test_error_pct}")
        if self.succeeded and self.undecided:
            raise ValueError("a run that succeeded is not undecided")

    @property
    def failed(self) -> bool:
        """NaN, divergence, or a decomposition that failed."""
        return not self.succeeded and not self.undecided

    def __str__(self) -> str:
        if self.succeeded:
            return f"{self.test_error_pct:.2f}% test error"
        if self.undecided:
            return f"undecided after step {self.failed_at_step}: {self.reason}"
        return f"failed at step {self.failed_at_step}: {self.reason}"


def judged(losses: list[float], classes: int, *, steps_per_epoch: int, ended: bool) -> str | None:
    """What the training losses of the epochs so far say: ``"diverged"``, ``"undecided"``, or ``None`` for all well."""
    guess = math.log(classes)
    lost = [loss > GUESS_SHARE * guess for loss in losses]
    patient = max(PATIENCE, math.ceil(LEAST_STEPS / steps_per_epoch))
    if len(lost) >= patient and all(lost[-patient:]):
        return "diverged"
    if not (ended and lost[-1]):
        return None
    return "diverged" if not all(lost) or losses[-1] > LOST * guess else "undecided"


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
        if config.channels_last:
            self.network = self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.model = processes.parallelised(self.network, device)
        if config.compile:
            self.model = cast("nn.Module", torch.compile(self.model))
        self.optimizer = torch.optim.SGD(
            self.model.parameters(),
            lr=config.learning_rate,
            momentum=config.sgd_momentum,
            weight_decay=config.weight_decay,
            nesterov=config.nesterov,
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
        self.model.train()
        if self.order is None:
            count, device = len(self.data.train_labels), self.data.train_labels.device
            self.order = torch.randperm(count, generator=self.generator, device=device)
        for chosen in self.order.split(self.config.batch_size)[len(self.trace) :]:
            for group in self.optimizer.param_groups:
                group["lr"] = self.config.learning_rate_at(self.epoch + len(self.trace) / self.steps_per_epoch)
            try:
                self.trace.append(self._step(chosen))
            except torch.linalg.LinAlgError as error:
                if self.config.bad_steps == "fail":
                    self.failure = f"decomposition failed ({str(error).partition('.')[0]})"
                    return
                self.trace.append(torch.full((2,), math.nan, device=self.data.train_labels.device))
            yield

    def end_epoch(self) -> Result | None:
        """Evaluate, and record the epoch; a result if the run is over."""
        epoch, device = self.epoch + 1, self.data.train_labels.device
        measured = torch.stack(self.trace) if self.trace else torch.zeros(0, 2, device=device)
        finite, skipped = measured.isfinite(), 0
        if self.config.bad_steps == "skip":
            measured = measured[finite.all(dim=1)]
            skipped, finite = len(finite) - len(measured), measured.isfinite()
            if not len(measured):
                self.failure = "every step was skipped"
        good = int(finite.all(dim=1).int().cumprod(0).sum())  # steps before the first that is not finite
        if good < len(measured):
            self.failure = f"{'gradient' if finite[good, 0] else 'loss'} is not finite"
        failure, step = self.failure, self.epoch * self.steps_per_epoch + good + skipped
        self.metrics.append(
            EpochMetrics(
                epoch=epoch,
                step=step,
                train_loss=measured[:good, 0].mean().item(),
                test_error_pct=math.nan if failure else self._evaluate(),
                learning_rate=self.config.learning_rate_at(epoch - 1),
                largest_gradient_norm=measured[:good, 1].amax().item() if good else math.nan,
                seconds=self.seconds_before + time.monotonic() - self.started,
                skipped_steps=skipped,
            )
        )
        self._begin_epoch()
        return self._ended(step + 1, failure) if failure else self._outcome()

    def _step(self, chosen: Tensor) -> Tensor:
        """One step of SGD on the chosen images. Loss and gradient norm, ``(2,)``, on the device."""
        data, share, count = self.data, self.processes.share(len(chosen)), len(chosen)
        crops = draw_crops(count, *data.train_images.shape[2:], pad=data.pad, flip=data.flip, generator=self.generator)
        own = chosen[share]
        images = self._standardised(crops[share].of(data.train_images[own], data.pad))
        with self._autocast():
            logits = self.model(images)
        if logits.shape != (len(own), data.classes):
            raise UsageError(
                f"--model {self.config.model}: of {len(own)} images and {data.classes} classes it must make logits "
                f"{(len(own), data.classes)}, got {tuple(logits.shape)}"
            )
        losses = nn.functional.cross_entropy(
            logits.float(), data.train_labels[own], reduction="sum", label_smoothing=self.config.label_smoothing
        )
        loss = losses * (self.processes.size / count)
        self.optimizer.zero_grad()
        loss.backward()
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        if self.config.clip_norm is not None:
            nn.utils.clip_grads_with_norm_(self.model.parameters(), self.config.clip_norm, norm)
        mean = self.processes.sum(loss.detach()) / self.processes.size
        # The one rule that must look at a step: only a method that skips pays for it.
        if self.config.bad_steps == "fail" or bool((mean.isfinite() & norm.isfinite()).item()):
            self.optimizer.step()
        return torch.stack([mean, norm])

    def _autocast(self) -> torch.autocast:
        device = self.data.train_labels.device.type
        return torch.autocast(device, torch.bfloat16, enabled=self.config.amp == "bf16")

    @torch.no_grad()
    def _evaluate(self) -> float:
        """Error on the test images, in percent; the processes take the batches in turn."""
        self.processes.broadcast_buffers(self.network)
        self.network.eval()
        images, labels = self.data.test_images, self.data.test_labels
        wrong = torch.zeros((), dtype=torch.long, device=labels.device)
        batches = list(zip(images.split(EVALUATION_BATCH), labels.split(EVALUATION_BATCH), strict=True))
        for batch, expected in batches[self.processes.rank :: self.processes.size]:
            with self._autocast():
                wrong += (self.network(self._standardised(batch)).argmax(dim=1) != expected).sum()
        return 100 * self.processes.sum(wrong).item() / len(labels)

    def _standardised(self, images: Tensor) -> Tensor:
        standardised = (images.float() - self.mean) / self.std
        return standardised.contiguous(memory_format=torch.channels_last) if self.config.channels_last else standardised

    def _outcome(self) -> Result | None:
        """The result after an epoch, or ``None`` for a run that goes on."""
        last, ended = self.metrics[-1], self.epoch == self.config.epochs
        losses = [epoch.train_loss for epoch in self.metrics]
        verdict = judged(losses, self.data.classes, steps_per_epoch=self.steps_per_epoch, ended=ended)
        if verdict is None:
            return self._ended(last.step, None, last.test_error_pct) if ended else None
        loss = f"training loss {last.train_loss:.2f}, a guess has {math.log(self.data.classes):.2f}"
        if verdict == "undecided":
            return self._ended(last.step, f"not trained long enough ({loss})", undecided=True)
        return self._ended(last.step, f"diverged ({loss})")

    def _ended(self, step: int, reason: str | None, error: float | None = None, *, undecided: bool = False) -> Result:
        """A success where there is no reason why not."""
        return Result(
            reason is None,
            error,
            failed_at_step=None if reason is None else step,
            reason=reason,
            seconds=self._seconds(),
            undecided=undecided,
            peak_memory_mb=peak_memory_mb(self.data.train_labels.device),
        )

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

    def final_state(self) -> dict[str, Any]:
        """What is needed to use the network: its tensors, and the moments and number of classes of its data."""
        network = {name: tensor.detach().cpu() for name, tensor in self.network.state_dict().items()}
        return {"network": network, "mean": self.mean.cpu(), "std": self.std.cpu(), "classes": self.data.classes,
                "image": list(self.data.train_images.shape[1:])}  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a :meth:`state_dict`."""
        self.metrics = [EpochMetrics(**epoch) for epoch in state["metrics"]]
        self._begin_epoch()
        self.order, self.seconds_before = state["order"], state["seconds"]
        self.trace = [] if state["trace"] is None else list(state["trace"].unbind())
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"].cpu())


def peak_memory_mb(device: torch.device) -> float:
    """Of the GPU's allocator, or of this process."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    import resource
    import sys

    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB, on macOS bytes
    return round(largest / (2**20 if sys.platform == "darwin" else 2**10), 1)
