"""What this installation computes with."""

import torch

from eigengrad import gpu, native

__all__ = ["show_config"]


def show_config() -> None:
    """Print what this installation computes with: torch, threads, and which kernels are there.

    Example:
        >>> import eigengrad as eg
        >>> eg.show_config()  # doctest: +ELLIPSIS
        torch ...
        threads ...
        native kernel: ...
        GPU kernels: ...
    """
    print(f"torch {torch.__version__}")
    print(f"threads {torch.get_num_threads()}")
    print(f"native kernel: {native.describe()}")
    print(f"GPU kernels: {gpu.describe()}")
