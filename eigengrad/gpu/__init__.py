"""Kernels of our own on NVIDIA's GPUs: the CPU's algorithms, compiled when they are first used.

The sources are the headers of the folder ``native``, where a lane of a vector register becomes a thread, and a matrix
in a cache one in the shared memory of a block. They are compiled by NVRTC, which torch for CUDA brings along, and are
the CUDA implementations of ``torch.ops.eigengrad``: so autograd, ``vmap`` and compiled graphs know nothing of them.
Where they cannot be compiled, a warning says so, and the operators work through ``torch.linalg``. The environment
variable ``EIGENGRAD_GPU=0``, read when eigengrad is imported, asks for that.
"""

import os

import torch
from torch import Tensor

from eigengrad.gpu import operators, passes
from eigengrad.gpu.kernels import trouble
from eigengrad.native.operators import implement

__all__ = ["describe", "takes_data", "wanted"]

VARIABLE = "EIGENGRAD_GPU"


def wanted() -> bool:
    """Whether our kernels are to be used.

    Raises:
        ValueError: if the environment variable is neither 0 nor 1.
    """
    value = os.environ.get(VARIABLE, "")
    if value not in ("", "0", "1"):
        raise ValueError(f"{VARIABLE} must be 0 or 1, got {value!r}")
    return value != "0"


def takes_data(data: Tensor) -> bool:
    """Whether the passes over ``data (B, G, d, M)`` are ours."""
    return data.is_cuda and _WANTED and torch.version.cuda is not None and passes.takes(data)


def describe() -> str:
    """What :func:`eigengrad.show_config` says about them."""
    if torch.version.cuda is None:
        return "none, as torch was built without CUDA"
    if not _WANTED:
        return f"not wanted ({VARIABLE}=0)"
    if not torch.cuda.is_available():
        return "none, as torch finds no GPU"
    return f"not all in use ({trouble[0]})" if trouble else "compiled at first use"


_WANTED = wanted()
if _WANTED and torch.version.cuda is not None:
    for _name, _implementation in (operators.IMPLEMENTATIONS | passes.IMPLEMENTATIONS).items():
        implement(_name, _implementation, "CUDA")
