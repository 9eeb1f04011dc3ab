"""Many trainings at once: on this machine's cores (``local``), or as tasks of a Ray cluster (``ray``)."""

from eigengrad_lab.config import UsageError
from eigengrad_lab.runs.engines.work import Broken, Engine, Work

__all__ = ["Broken", "Engine", "Work", "by_name"]


def by_name(name: str, address: str | None = None) -> Engine:
    """The engine ``"local"``, or ``"ray"`` at the address of a cluster.

    Raises:
        UsageError: for another name, if Ray is not installed, or for an address without Ray.
    """
    if name == "ray":
        from eigengrad_lab.runs.engines.on_ray import OnRay

        return OnRay(address)
    if name != "local":
        raise UsageError(f"--engine must be local or ray, got {name!r}")
    if address is not None:
        raise UsageError("--address is that of a Ray cluster: it goes with --engine ray")
    from eigengrad_lab.runs.engines.local import run

    return run
