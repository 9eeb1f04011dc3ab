"""Trainings as tasks of a Ray cluster: many machines, retries, and shares of a GPU.

Images are put into the cluster's object store once. Records lie in a folder that all machines see; it is by the
checkpoints there that a task whose worker died goes on wherever Ray retries it.
"""

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from eigengrad_lab.config import RunConfig, UsageError
from eigengrad_lab.data import ImageData
from eigengrad_lab.runs.engines.work import RETRIES, Broken, Ended, Work
from eigengrad_lab.runs.execution import Interrupted, train
from eigengrad_lab.training import Result

__all__ = ["OnRay"]


class OnRay:
    """The engine of a cluster.

    Args:
        address: of a running cluster, as ``ray.init`` takes it; ``None`` for a Ray of this machine's own, which ends
            with the work.

    Raises:
        UsageError: if Ray is not installed.
    """

    def __init__(self, address: str | None) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a research tool does not phone home
        try:
            import ray
        except ImportError as error:
            raise UsageError("--engine ray needs Ray: pip install 'eigengrad[ray]'") from error
        self.ray: Any = ray
        self.address = address

    def __call__(self, work: Work) -> Iterator[Ended]:
        """Train everything, ``work.workers`` at a time on each GPU, or in all on CPUs."""
        ray, mine = self.ray, not self.ray.is_initialized()
        if mine:
            self._connect(work)
        try:
            yield from self._run(work)
        finally:
            if mine:
                ray.shutdown()

    def _connect(self, work: Work) -> None:
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
        # A user's own parts are imported from where the command was given, here as there.
        quiet["runtime_env"] = {"env_vars": {"PYTHONPATH": os.pathsep.join([str(Path.cwd()), *_python_path()])}}
        try:
            if self.address is None:
                self.ray.init(num_cpus=work.workers, include_dashboard=False, **quiet)
            else:
                self.ray.init(address=self.address, **quiet)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise UsageError(f"--engine ray: no cluster at {self.address or 'this machine'}: {error}") from error

    def _run(self, work: Work) -> Iterator[Ended]:
        ray = self.ray
        gpus = 1 / work.workers if work.device.type == "cuda" else 0
        task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=RETRIES)(_train)
        data = ray.put(work.data)
        # Without what stays here: the images travel once, and the display not at all.
        quiet = dataclasses.replace(work, configs=(), data=None, warn=None, until=None)  # type: ignore[arg-type]
        waiting = {task.remote(config, data, quiet): config for config in work.configs}
        try:
            while waiting:
                done, _ = ray.wait(list(waiting), timeout=work.seconds_left())
                if not done:
                    return
                for reference in done:
                    config = waiting.pop(reference)
                    yield config, self._outcome(config, reference, work)
        finally:
            for reference in waiting:
                ray.cancel(reference, force=False)  # as Ctrl-C in the worker: it saves its state
            if waiting:
                ray.wait(list(waiting), num_returns=len(waiting), timeout=60)

    def _outcome(self, config: RunConfig, reference: Any, work: Work) -> Result | Broken:
        try:
            result, warnings = self.ray.get(reference)
        except self.ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None) or error
            return Broken(config, f"{type(cause).__name__}: {cause}".partition("\n")[0])
        for warning in warnings:
            work.warn(warning)
        return result


def _train(config: RunConfig, data: ImageData, work: Work) -> tuple[Result, list[str]]:
    work.set_threads()
    warnings: list[str] = []
    try:
        return train(config, data.to(work.device), work.recording, warn=warnings.append), warnings
    except Interrupted:
        raise RuntimeError("stopped; its state is saved") from None


def _python_path() -> list[str]:
    return [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
