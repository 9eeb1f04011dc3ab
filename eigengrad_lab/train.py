"""One training, from a configuration to a result.

A run that meets NaN, diverges, or whose decomposition does not converge has *failed*, and that is its result: the paper
counts such runs. Losses and gradient norms stay on the device during an epoch; they are looked at once it is over, so
that the host never waits for a step.
"""

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from eigengrad_lab.config import RunConfig
from eigengrad_lab.data import ImageData, augment
from eigengrad_lab.models import build
from eigengrad_lab.records import EpochMetrics, Result, RunRecord

__all__ = ["Interrupted", "train"]

EVALUATION_BATCH = 512
CHECKPOINT_SECONDS = 30.0
"""Least time between two checkpoints: what an interruption may cost."""
GUESS_SHARE = 0.95
PATIENCE = 3
"""A run has diverged when it ends with a training loss above this share of a guess's, ``log(classes)``, or has been
there for this many epochs in a row. A network whose weights one huge gradient has scattered stays there."""


class Interrupted(Exception):  # noqa: N818 (not an error)
    """The caller asked to stop; the run is resumed by training the same configuration again."""


def train(
    config: RunConfig,
    data: ImageData,
    root: Path,
    *,
    on_step: Callable[[int, int], None] = lambda done, steps: None,
    on_epoch: Callable[[EpochMetrics], None] = lambda metrics: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Result:
    """Train ``config`` on the device where ``data`` lies, or return the result it already has.

    Args:
        config: what to train.
        data: its images.
        root: the folder of all runs' folders.
        on_step: called with the number of steps done and of all steps.
        on_epoch: called after each epoch.
        should_stop: asked before each step.

    Raises:
        Interrupted: once ``should_stop`` has answered yes.
    """
    record = RunRecord(root, config)
    if (result := record.result()) is not None:
        return result
    record.open()
    training = _Training(config, data)
    if (state := record.checkpoint(data.train_images.device)) is not None:
        training.load_state_dict(state)

    result, saved_at = None, time.monotonic()
    while result is None:
        result = training.run_epoch(on_step, should_stop) or training.judge()
        record.write_metrics(training.metrics)
        on_epoch(training.metrics[-1])
        if result is None and time.monotonic() - saved_at > CHECKPOINT_SECONDS:
            record.write_checkpoint(training.state_dict())
            saved_at = time.monotonic()
    record.write_result(result)
    return result


class _Training:
    """A run between two epochs: network, optimiser, random stream, and what has been measured."""

    def __init__(self, config: RunConfig, data: ImageData) -> None:
        device = data.train_images.device
        torch.manual_seed(config.seed)  # initial weights
        self.config, self.data = config, data
        self.mean, self.std = data.moments()
        self.generator = torch.Generator(device).manual_seed(config.seed)  # order, augmentation, random starts
        channels = data.train_images.shape[1]
        self.model = build(config, image_channels=channels, classes=data.classes, generator=self.generator).to(device)
        self.optimizer = torch.optim.SGD(
            self.model.parameters(),
            lr=config.learning_rate,
            momentum=config.sgd_momentum,
            weight_decay=config.weight_decay,
        )
        self.steps_per_epoch = math.ceil(len(data.train_labels) / config.batch_size)
        self.epoch = 0
        self.metrics: list[EpochMetrics] = []

    def run_epoch(self, on_step: Callable[[int, int], None], should_stop: Callable[[], bool]) -> Result | None:
        """Train one epoch and evaluate. A result if the run has failed."""
        started = time.monotonic()
        rate = self.config.learning_rate_at(self.epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        first_step = self.epoch * self.steps_per_epoch
        trace: list[Tensor] = []  # loss and gradient norm of each step, on the device
        failure: str | None = None
        self.model.train()
        try:
            for images, labels in self.batches():
                if should_stop():
                    raise Interrupted
                trace.append(self.step(images, labels))
                on_step(first_step + len(trace), self.config.epochs * self.steps_per_epoch)
        except torch.linalg.LinAlgError as error:
            failure = f"decomposition failed ({str(error).partition('.')[0]})"

        measured = torch.stack(trace) if trace else torch.zeros(0, 2)
        finite = measured.isfinite()
        good = int(finite.all(dim=1).int().cumprod(0).sum())  # steps before the first that is not finite
        if good < len(measured):
            failure = f"{'gradient' if finite[good, 0] else 'loss'} is not finite"
        self.epoch += 1
        self.metrics.append(
            EpochMetrics(
                epoch=self.epoch,
                step=first_step + good,
                train_loss=measured[:good, 0].mean().item(),
                test_error_pct=math.nan if failure else self.evaluate(),
                learning_rate=rate,
                largest_gradient_norm=measured[:good, 1].amax().item() if good else math.nan,
                seconds=time.monotonic() - started,
            )
        )
        return self.failed(first_step + good + 1, failure) if failure else None

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The training images in random order, augmented and standardised."""
        data = self.data
        device = data.train_images.device
        order = torch.randperm(len(data.train_labels), generator=self.generator, device=device)
        for chosen in order.split(self.config.batch_size):
            images = augment(data.train_images[chosen], pad=data.pad, flip=data.flip, generator=self.generator)
            yield self.standardise(images), data.train_labels[chosen]

    def step(self, images: Tensor, labels: Tensor) -> Tensor:
        """One step of SGD. Loss and gradient norm, ``(2,)``, on the device."""
        loss = nn.functional.cross_entropy(self.model(images), labels)
        self.optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.get_total_norm([p.grad for p in self.model.parameters() if p.grad is not None])
        self.optimizer.step()
        return torch.stack([loss.detach(), norm])

    @torch.no_grad()
    def evaluate(self) -> float:
        """Error on the test images, in percent."""
        self.model.eval()
        wrong = torch.zeros((), dtype=torch.long, device=self.data.test_labels.device)
        batches = zip(
            self.data.test_images.split(EVALUATION_BATCH), self.data.test_labels.split(EVALUATION_BATCH), strict=True
        )
        for images, labels in batches:
            wrong += (self.model(self.standardise(images)).argmax(dim=1) != labels).sum()
        return 100 * wrong.item() / len(self.data.test_labels)

    def standardise(self, images: Tensor) -> Tensor:
        return (images.float() - self.mean) / self.std

    def judge(self) -> Result | None:
        """The result after an epoch, or ``None`` for a run that goes on."""
        last = self.metrics[-1]
        ended = self.epoch == self.config.epochs
        guess = math.log(self.data.classes)
        lost = [epoch.train_loss > GUESS_SHARE * guess for epoch in self.metrics[-PATIENCE:]]
        if (ended and lost[-1]) or (len(lost) == PATIENCE and all(lost)):
            return self.failed(last.step, f"diverged (training loss {last.train_loss:.2f}, a guess has {guess:.2f})")
        return Result(succeeded=True, test_error_pct=last.test_error_pct, seconds=self.seconds()) if ended else None

    def failed(self, step: int, reason: str) -> Result:
        return Result(False, None, failed_at_step=step, reason=reason, seconds=self.seconds())

    def seconds(self) -> float:
        return sum(epoch.seconds for epoch in self.metrics)

    def state_dict(self) -> dict[str, object]:
        """Everything the next epoch depends on."""
        return {
            "epoch": self.epoch,
            "metrics": [vars(epoch) for epoch in self.metrics],
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Continue from a :meth:`state_dict`."""
        self.epoch = state["epoch"]  # type: ignore[assignment]
        self.metrics = [EpochMetrics(**epoch) for epoch in state["metrics"]]  # type: ignore[attr-defined]
        self.model.load_state_dict(state["model"])  # type: ignore[arg-type]
        self.optimizer.load_state_dict(state["optimizer"])  # type: ignore[arg-type]
        self.generator.set_state(state["generator"].cpu())  # type: ignore[attr-defined]
