"""Other packages' batched eigendecompositions of real symmetric matrices on a CPU, those that install from PyPI.

NumPy and JAX call LAPACK on one matrix after the other, as torch does. TensorFlow has the QL algorithm of its own
(Eigen's). SciPy has a loop of Python around LAPACK, slower than NumPy's.
"""

import os
from collections.abc import Callable
from typing import Any

import numpy as np

Run = Callable[[], object]
Prepare = Callable[[np.ndarray], Run]
"""Takes matrices ``(batch, n, n)`` and returns what is timed, conversions done before."""

NAMES = ("numpy", "jax", "tensorflow")


def installed(threads: int) -> tuple[dict[str, Prepare], list[str]]:
    """Those there are, set to so many threads where they let themselves be set, and the names of those that are not.

    Call it before any of them is imported: JAX reads the number of threads once.
    """
    found, missing = {}, []
    for name, load in zip(NAMES, (_numpy, _jax, _tensorflow), strict=True):
        try:
            found[name] = load(threads)
        except ImportError:
            missing.append(name)
    return found, missing


def _numpy(threads: int) -> Prepare:
    import threadpoolctl

    threadpoolctl.threadpool_limits(threads, user_api="blas")
    return lambda A: lambda: np.linalg.eigh(A)


def _jax(threads: int) -> Prepare:
    if threads == 1:
        os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    import jax

    jax.config.update("jax_enable_x64", True)
    solve: Any = jax.jit(jax.numpy.linalg.eigh)

    def prepare(A: np.ndarray) -> Run:
        there = jax.numpy.asarray(A)
        return lambda: jax.block_until_ready(solve(there))

    return prepare


def _tensorflow(threads: int) -> Prepare:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow

    tensorflow.config.threading.set_intra_op_parallelism_threads(threads)
    tensorflow.config.threading.set_inter_op_parallelism_threads(1)

    def prepare(A: np.ndarray) -> Run:
        there = tensorflow.constant(A)
        return lambda: [part.numpy() for part in tensorflow.linalg.eigh(there)]

    return prepare
