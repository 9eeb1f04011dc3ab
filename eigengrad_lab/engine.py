"""Many trainings at once: worker processes on one machine, one thread each on a CPU.

Images are loaded once and shared with the workers. A worker that dies, or a run that breaks, loses its own run and no
other; records are on disk, so the same command takes up where this one stopped.
"""

import os
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event
from pathlib import Path
from threading import Thread
from typing import Any

import torch
import torch.multiprocessing

from eigengrad_lab.config import RunConfig
from eigengrad_lab.data import ImageData
from eigengrad_lab.records import Result
from eigengrad_lab.train import Interrupted, train

__all__ = ["Broken", "Progress", "default_workers", "run_all"]


@dataclass(frozen=True)
class Progress:
    """News of a run on its way."""

    identity: str
    step: int
    steps: int
    train_loss: float | None = None
    """Mean of the epoch that has just ended, if one has."""


@dataclass(frozen=True)
class Broken:
    """A run that ended without a result: a defect, or a machine that gave up. It is tried again next time."""

    config: RunConfig
    reason: str


def default_workers(device: torch.device) -> int:
    """One process for each core, or one for a GPU."""
    return 1 if device.type == "cuda" else len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1


def run_all(
    configs: Sequence[RunConfig],
    data: ImageData,
    root: Path,
    *,
    device: torch.device,
    workers: int,
    on_progress: Callable[[Progress], None],
    on_result: Callable[[RunConfig, Result], None],
) -> list[Broken]:
    """Train all of ``configs``, ``workers`` at a time.

    Args:
        configs: what to train, in this order.
        data: their images, on the CPU.
        root: the folder of all runs' folders.
        device: where to train.
        workers: number of processes.
        on_progress: called from a thread of this process, several times a second at most.
        on_result: called once for each run that ends, as it ends.

    Returns:
        The runs that broke.

    Raises:
        KeyboardInterrupt: after the workers have stopped.
    """
    context = torch.multiprocessing.get_context("spawn")
    news: Queue[Progress | None] = context.Queue()
    stop = context.Event()
    listener = Thread(target=_listen, args=(news, on_progress), daemon=True)
    listener.start()
    broken: list[Broken] = []
    with ProcessPoolExecutor(
        workers, mp_context=context, initializer=_start_worker, initargs=(data, root, device, workers, news, stop)
    ) as pool:
        futures: dict[Future[Result], RunConfig] = {pool.submit(_train_in_worker, config): config for config in configs}
        try:
            for future in as_completed(futures):
                if error := future.exception():
                    broken.append(Broken(futures[future], f"{type(error).__name__}: {error}"))
                else:
                    on_result(futures[future], future.result())
        except KeyboardInterrupt:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
        finally:
            news.put(None)
            listener.join()
    return broken


@dataclass(frozen=True)
class _Worker:
    """What a worker process holds between runs."""

    data: ImageData
    root: Path
    news: "Queue[Progress | None]"
    stop: Event


_worker: _Worker


def _start_worker(
    data: ImageData, root: Path, device: torch.device, workers: int, news: "Queue[Progress | None]", stop: Event
) -> None:
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides, through `stop`
    if workers > 1:
        torch.set_num_threads(1)
    _worker = _Worker(data.to(device), root, news, stop)


def _train_in_worker(config: RunConfig) -> Result:
    identity = config.identity

    def on_step(step: int, steps: int) -> None:
        if step % 4 == 0:
            _worker.news.put(Progress(identity, step, steps))

    def on_epoch(metrics: Any) -> None:
        steps = metrics.step // metrics.epoch * config.epochs
        _worker.news.put(Progress(identity, metrics.step, steps, metrics.train_loss))

    try:
        return train(
            config, _worker.data, _worker.root, on_step=on_step, on_epoch=on_epoch, should_stop=_worker.stop.is_set
        )
    except Interrupted:
        raise KeyboardInterrupt from None


def _listen(news: "Queue[Progress | None]", on_progress: Callable[[Progress], None]) -> None:
    while (progress := news.get()) is not None:
        on_progress(progress)
