"""The processes of one training: one by default, or those that ``torchrun`` has started, each with a share of a batch.

All draw the same order and the same crops from the same generator, and each takes its share of every batch. Losses are
scaled so that the mean of the processes' gradients, which is what DistributedDataParallel makes, is that of the whole
batch, whatever the shares.
"""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn

from eigengrad_lab.config import UsageError

__all__ = ["ONE_PROCESS", "Processes", "joined_processes"]


class Processes:
    """The processes of one training, and this one's rank among them."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    @property
    def is_leader(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    @property
    def process_group(self) -> dist.ProcessGroup | None:
        """For layers that share their moments."""
        return None if self.size == 1 else dist.group.WORLD

    def share(self, count: int) -> slice:
        """Which of a batch's ``count`` samples are this process's; shares differ by at most one."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def sum(self, x: Tensor) -> Tensor:
        """Sum over the processes."""
        if self.size > 1:
            x = x.clone()
            dist.all_reduce(x)
        return x

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether the flag of any process is set. The processes wait for each other."""
        return flag if self.size == 1 else bool(self.sum(torch.tensor(float(flag), device=device)) > 0)

    def wait(self) -> None:
        """Wait until every process has made this call."""
        if self.size > 1:
            dist.barrier()

    def parallelised(self, network: nn.Module, device: torch.device) -> nn.Module:
        """The network with gradients averaged over the processes.

        On a GPU its batch normalisation layers share their moments too; torch has no such layer for a CPU, where each
        process normalises by its own share, as is usual.
        """
        if self.size == 1:
            return network
        if device.type == "cuda":
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        return nn.parallel.DistributedDataParallel(network, device_ids=[device] if device.type == "cuda" else None)

    def broadcast_buffers(self, network: nn.Module) -> None:
        """Give all processes the leader's running estimates."""
        if self.size > 1:
            for buffer in network.buffers():
                dist.broadcast(buffer, 0)


ONE_PROCESS = Processes()


@contextmanager
def joined_processes(device: torch.device) -> Iterator[tuple[Processes, torch.device]]:
    """The processes that ``torchrun`` has started, with this one's device; without it, this process alone.

    Raises:
        UsageError: if the processes cannot find each other.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ONE_PROCESS, device
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    try:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    except (ValueError, RuntimeError) as error:
        raise UsageError(f"WORLD_SIZE is {size}, but the processes cannot be joined: {error}") from error
    try:
        yield Processes(dist.get_rank(), size), device
    finally:
        gc.collect()  # what holds the group, such as a network's reducer, must go before it
        dist.destroy_process_group()
