"""FID against SciPy, Karcher's mean against pyRiemann, SPDNet's training step against spd_learn.

The rivals are the real packages (``pip install scipy pyriemann spd_learn``); a part whose package is missing is left
out, and said. Times are the processor's, with one thread: other programs lengthen them less than the clock's.
"""

import argparse
import copy
import runpy
import statistics
import time
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

import eigengrad as eg
from benchmarks.timing import claim, report

Measured = dict[str, dict[str, dict[str, float]]]


def processor(function: Callable[[], Tensor]) -> tuple[Tensor, float]:
    """What a function returns, and its processor time."""
    started = time.process_time()
    value = function()
    return value, time.process_time() - started


def fid(measured: Measured, n: int) -> bool:
    """Of n features, against the trace of SciPy's square root in float64."""
    import scipy.linalg

    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(n, n, dtype=torch.float64, generator=generator) / n**0.5
    X = torch.randn(2 * n, n, dtype=torch.float64, generator=generator) @ (mixing * torch.logspace(0, -2, n).double())
    Y = torch.randn(3 * n, n, dtype=torch.float64, generator=generator) * torch.linspace(1, 0.1, n).double() + 0.1
    mean1, A, mean2, B = X.mean(0), X.mT.cov(), Y.mean(0), Y.mT.cov()
    cases = {"forward": A, "forward, for a gradient": A.clone().requires_grad_()}
    rounds = []
    for _ in range(3):  # in turn
        root, theirs = processor(lambda: torch.from_numpy(scipy.linalg.sqrtm((A @ B).numpy()).real))
        ours = {name: processor(lambda C=C: eg.spd.frechet_distance(mean1, C, mean2, B)) for name, C in cases.items()}
        rounds.append((theirs, ours))
    expected = float((mean1 - mean2).square().sum() + A.trace() + B.trace() - 2 * root.trace())
    figures = {
        name: {
            "ratio": statistics.median(ours[name][1] / theirs for theirs, ours in rounds),
            "rival_seconds": statistics.median(theirs for theirs, _ in rounds),
            "relative_difference": abs(float(rounds[0][1][name][0].detach()) / expected - 1),
        }
        for name in cases
    }
    _, seconds = processor(ours["forward, for a gradient"][0].backward)
    figures["forward, for a gradient"]["backward_seconds"] = seconds
    measured[f"frechet_distance, n = {n}, float64"] = {
        f"scipy.linalg.sqrtm, {name}": of for name, of in figures.items()
    }
    few = X[: n // 4]
    A = few.mT.cov()
    _, theirs = processor(lambda: torch.from_numpy(scipy.linalg.sqrtm((A @ B).numpy()).real))
    A.requires_grad_()
    value, seconds = processor(lambda: eg.spd.frechet_distance(few.mean(0), A, mean2, B))
    _, backward = processor(value.backward)
    x, y = ((Z - Z.mean(0)) / (len(Z) - 1) ** 0.5 for Z in (few, Y))
    expected = (few.mean(0) - mean2).square().sum() + x.square().sum() + y.square().sum()
    expected -= 2 * torch.linalg.svdvals(y @ x.mT).sum()  # of a singular product, SciPy's root has fewer digits
    figures["of few samples"] = {
        "ratio": seconds / theirs,
        "rival_seconds": theirs,
        "relative_difference": abs(float(value.detach() / expected) - 1),
        "backward_seconds": backward,
    }
    measured[f"frechet_distance, n = {n}, {n // 4} samples, float64"] = {
        "scipy.linalg.sqrtm, forward, for a gradient": figures["of few samples"]
    }
    return all(of["ratio"] <= 0.2 and of["relative_difference"] <= 1e-6 for of in figures.values())


def karcher(measured: Measured) -> bool:
    """The mean of 50 matrices of 22 x 22, each to its best tolerance and at pyRiemann's default."""
    from pyriemann.geometry.mean import mean_riemann

    X = torch.randn(50, 22, 22, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    A = X @ X.mT + 0.1 * torch.eye(22, dtype=torch.float64)
    ours = [processor(lambda: eg.spd.karcher_mean(A)) for _ in range(5)]
    M, seconds = ours[0][0], statistics.median(seconds for _, seconds in ours)
    cases = {}
    for name, options in {"to rounding": {"tol": 1e-13, "maxiter": 500}, "its default tolerance": {}}.items():
        theirs = [processor(lambda o=options: torch.from_numpy(mean_riemann(A.numpy(), **o))) for _ in range(3)]
        rival = statistics.median(seconds for _, seconds in theirs)
        cases[f"pyriemann, {name}"] = {
            "ratio": seconds / rival,
            "ours_seconds": seconds,
            "rival_seconds": rival,
            "relative_difference": float((M - theirs[0][0]).norm() / M.norm()),
        }
    measured["karcher_mean, 50 of 22x22, float64"] = cases
    return cases["pyriemann, to rounding"]["relative_difference"] <= 1e-10


def spdnet(measured: Measured, rounds: int) -> bool:
    """A training step of 64 matrices of 22 channels, same seed and loss: theirs, and with our door, in turn."""
    from spd_learn.models import SPDNet

    neighbours = runpy.run_path(str(Path(__file__).parent.parent / "examples" / "neighbours.py"))
    holds = True
    for dtype in (torch.float32, torch.float64):
        torch.manual_seed(0)
        signals, labels = torch.randn(64, 22, 200, dtype=dtype), torch.arange(64) % 4
        X = signals @ signals.mT / 200
        theirs = SPDNet(input_type="cov", n_chans=22, n_outputs=4, subspacedim=22, threshold=1e-4).to(dtype)
        networks = {"theirs": theirs, "ours": neighbours["spdnet"](copy.deepcopy(theirs))}
        optimizers = {name: torch.optim.SGD(network.parameters(), lr=1e-2) for name, network in networks.items()}

        def step(name: str) -> Tensor:
            loss = torch.nn.functional.cross_entropy(networks[name](X), labels)  # noqa: B023
            optimizers[name].zero_grad()  # noqa: B023
            loss.backward()
            optimizers[name].step()  # noqa: B023
            return loss.detach()

        taken: dict[str, list[float]] = {name: [] for name in networks}
        losses: dict[str, Tensor] = {}
        for done in range(-3, rounds):
            for name in networks:
                losses[name], seconds = processor(lambda name=name: step(name))
                if done >= 0:
                    taken[name].append(seconds)
        pairs = [a / b for a, b in zip(taken["ours"], taken["theirs"], strict=True)]
        lower, median, upper = statistics.quantiles(pairs, n=4)
        measured[f"SPDNet step, 64 of 22x22, {str(dtype).removeprefix('torch.')}"] = {
            "spd_learn": {
                "ratio": median,
                "ratio_lower_quartile": lower,
                "ratio_upper_quartile": upper,
                "ours_seconds": statistics.median(taken["ours"]),
                "rival_seconds": statistics.median(taken["theirs"]),
                "difference_of_losses": float((losses["ours"] - losses["theirs"]).abs()),
            }
        }
        holds &= median <= 0.4 and float((losses["ours"] - losses["theirs"]).abs()) < (
            1e-4 if dtype == torch.float32 else 1e-8
        )
    return holds


def main() -> None:
    """Measure, report, and assert the claims."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--features", type=int, default=2048, help="of the FID; fewer for a quick look")
    features = parser.parse_args().features
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    measured: Measured = {}
    parts = {
        "scipy": (lambda: fid(measured, features), "FID within 1e-6 of SciPy's, in at most a fifth of its time"),
        "pyriemann": (lambda: karcher(measured), "Karcher's mean is pyRiemann's, to 1e-10"),
        "spd_learn": (
            lambda: spdnet(measured, 100),
            "SPDNet's step at least 2.5 times as fast as spd_learn's, same loss",
        ),
    }
    verdicts = {}
    for package, (measure, text) in parts.items():
        if find_spec(package) is None:
            print(f"left out, {package} is not installed: {text}")
        else:
            verdicts[text] = measure()
    report("spd", measured)
    for text, holds in verdicts.items():
        claim(text, holds)


if __name__ == "__main__":
    main()
