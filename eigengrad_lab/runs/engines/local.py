"""Trainings in worker processes of this machine, one thread each on a CPU.

Images are loaded once and shared with the workers. When a worker dies, of a bug in a library or for want of memory, the
operating system's pool of processes goes with it; a new pool takes up what is left, from the checkpoints.
"""

import dataclasses
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from types import FrameType

import torch.multiprocessing

from eigengrad_lab.config import RunConfig
from eigengrad_lab.runs.engines.work import RETRIES, Broken, Ended, Work
from eigengrad_lab.runs.execution import Interrupted, train
from eigengrad_lab.training import Result

__all__ = ["run"]

ORPHAN_SECONDS = 60.0
"""How long a worker whose parent has died may take to save its run."""


def run(work: Work) -> Iterator[Ended]:
    """Train everything in ``work.workers`` processes."""
    waiting, deaths = list(work.configs), 0
    while waiting:
        ended = 0
        try:
            for config, outcome in _one_pool(work, waiting):
                ended += 1
                waiting.remove(config)
                yield config, outcome
        except BrokenProcessPool:
            deaths = deaths + 1 if ended == 0 else 1
            if deaths > RETRIES:
                for config in waiting:
                    yield config, Broken(config, f"worker processes died {deaths} times in a row")
                return
            work.warn(f"a worker process died; {len(waiting)} runs go on from their checkpoints")
        except TimeoutError:
            return


def _one_pool(work: Work, configs: list[RunConfig]) -> Iterator[Ended]:
    context = torch.multiprocessing.get_context("spawn")
    stop, warnings = context.Event(), context.SimpleQueue()
    quiet = dataclasses.replace(work, configs=(), warn=warnings.put)
    worker = (quiet, stop)
    with ProcessPoolExecutor(work.workers, mp_context=context, initializer=_start_worker, initargs=worker) as pool:
        futures: dict[Future[Result], RunConfig] = {pool.submit(_train, config): config for config in configs}
        try:
            for future in as_completed(futures, work.seconds_left()):
                while not warnings.empty():
                    work.warn(warnings.get())
                yield futures[future], _outcome(futures[future], future)
        finally:  # interrupted, a worker died, or the caller closed the iterator
            stop.set()
            pool.shutdown(cancel_futures=True)


def _outcome(config: RunConfig, future: "Future[Result]") -> Result | Broken:
    error = future.exception()
    if isinstance(error, BrokenProcessPool):
        raise error
    if error is None:
        return future.result()
    return Broken(config, f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)


@dataclass
class _Worker:
    """What a worker process holds between runs."""

    work: Work
    stop: Event
    at_a_run: bool = False
    to_leave: bool = False
    """Asked by SIGTERM, and only waiting for the run's state to be saved."""


_worker: _Worker


def _start_worker(work: Work, stop: Event) -> None:
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all: here it matters only during a run (see train)
    work.set_threads()
    _worker = _Worker(dataclasses.replace(work, data=work.data.to(work.device)), stop)
    signal.signal(signal.SIGTERM, _leave)
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    """Once the parent is gone, by ``kill -9`` say, nobody would ever stop this process: it saves its run and ends."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    _worker.stop.set()
    end = time.monotonic() + ORPHAN_SECONDS
    while _worker.at_a_run and time.monotonic() < end:
        time.sleep(0.05)
    os._exit(1)


def _leave(number: int, frame: FrameType | None) -> None:
    """SIGTERM, from outside or from a pool that is broken: an idle worker ends at once, another one after its run."""
    _worker.to_leave = True
    if not _worker.at_a_run:
        os._exit(0)


def _train(config: RunConfig) -> Result:
    """One run. A worker that is stopped ends instead of asking the pool for more.

    For the lock of the pool's queue may be held by a worker that has died idle, and would be waited for forever.
    """
    _worker.at_a_run = True
    try:
        return train(
            config,
            _worker.work.data,
            _worker.work.recording,
            should_stop=_worker.stop.is_set,
            warn=_worker.work.warn,
        )
    except Interrupted:
        os._exit(0)
    finally:
        _worker.at_a_run = False
        if _worker.to_leave:
            os._exit(0)
