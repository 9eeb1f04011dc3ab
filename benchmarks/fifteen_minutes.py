"""All that a GPU at hand for fifteen minutes is to tell, most valuable first; each result is written when it is there.

    python -m benchmarks.fifteen_minutes measure --out FOLDER [--images CIFAR10] [--seconds 330]
    python -m benchmarks.fifteen_minutes train   --out FOLDER [--images CIFAR10] [--seconds 400]

``measure``: a first look at everything, the tests marked ``gpu``, a training step, the grid of eigendecompositions;
meanwhile the images are decoded. ``train``: Table 1 on CIFAR-10, until the time is over. With ``--rehearse`` both do
the same in little on a CPU. Run from the root of the source tree: nothing is built. Needed are torch, pytest,
hypothesis, numpy, pyarrow, pillow, rich, matplotlib and jinja2. At most eight files come to lie in FOLDER.

CIFAR10 is a folder with the hub's parquet files; without one, the images are noise.
"""

import argparse
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import types
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

import eigengrad as eg
from benchmarks import gpu, gpu_training_step
from benchmarks.gpu_device import XSYEV, Candidate, Candidates, Cuda, Device

ROOT = Path(__file__).parents[1]
DECODED = Path(tempfile.gettempdir()) / f"eigengrad-images-{os.getuid()}.pt"
STARTED = time.monotonic()
METHODS = ("closed-form", "ours", "svd", "batchnorm", "pi")


class Rehearsal:
    """A CPU in place of the GPU."""

    where = torch.device("cpu")

    def describe(self) -> dict[str, Any]:
        return {"device": "a rehearsal on a CPU", "memory_gib": 0, "cuda": None}

    def free(self) -> int:
        return 2**32

    def milliseconds(self, call: Candidate) -> float:
        started = time.perf_counter()
        call()
        return 1e3 * (time.perf_counter() - started)

    def direct(self, A: torch.Tensor) -> Candidates:
        return {XSYEV: "a CPU has none"}


def elapsed() -> float:
    """Seconds since the start."""
    return time.monotonic() - STARTED


def say(text: str) -> None:
    """A line with the time."""
    print(f"[{elapsed():6.1f} s] {text}", flush=True)


# Parts of `measure`: each a process of its own, which ends with its time.


def smoke(options: argparse.Namespace) -> None:
    """One call of everything, with what it returned or raised and its seconds."""
    where = torch.device("cpu" if options.rehearse else "cuda")
    found: dict[str, Any] = {"torch": torch.__version__, "cuda": torch.version.cuda, "kernels": eg.gpu.describe()}
    if not options.rehearse:
        found["device"] = torch.cuda.get_device_name()

    def attempt(name: str, call: Callable[[], Any]) -> None:
        started = time.monotonic()
        try:
            result = call()
            if not options.rehearse:
                torch.cuda.synchronize()
        except Exception as error:
            result = f"{type(error).__name__}: {str(error)[:300]}"
        found[name] = [result, round(time.monotonic() - started, 3)]
        (options.out / "smoke.json").write_text(json.dumps(found, indent=1) + "\n")

    def eigh(n: int, batch: int) -> float:
        X = torch.randn(batch, n, n, device=where)
        A = (X + X.mT).requires_grad_()
        L, V = eg.eigh(A)
        (L.sum() + (V**2).sum()).backward()
        return float(((A @ V - V * L.unsqueeze(-2)).norm() / A.norm()).detach())

    def layer(half: bool = False, **settings: Any) -> tuple[float, bool]:
        network = eg.nn.ZCAWhitening(64, **settings).to(where)
        x = torch.randn(32, 64, 16, 16, device=where).requires_grad_()
        with torch.autocast(where.type, dtype=torch.bfloat16, enabled=half):
            y = network(x.to(memory_format=torch.channels_last) if half else x)
        y.square().mean().backward()
        return float(y.detach().std()), bool(x.grad is not None and x.grad.isfinite().all())

    def captured() -> str:
        network, x = eg.nn.ZCAWhitening(64, group_size=16).to(where), torch.randn(32, 64, 16, 16, device=where)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            network(x), network(x)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            network(x)
        graph.replay()
        torch.cuda.synchronize()
        return "captured and replayed"

    for n, batch in ((3, 4096), (8, 4096), (16, 256), (64, 64), (100, 4)):
        attempt(f"eigh of {batch} of {n}, with its compilation", lambda n=n, batch=batch: eigh(n, batch))  # type: ignore[misc]
        attempt(f"eigh of {batch} of {n}", lambda n=n, batch=batch: eigh(n, batch))  # type: ignore[misc]
    for d in (4, 16, 64):
        attempt(f"layer, d = {d}", lambda d=d: layer(group_size=d))  # type: ignore[misc]
    attempt("layer, the paper's gradient", lambda: layer(group_size=16, gradient=eg.PowerIteration()))
    attempt("layer, bfloat16 and channels_last", lambda: layer(half=True, group_size=16))
    if not options.rehearse:
        attempt("a captured graph", captured)
    found["trouble"] = list(eg.gpu.kernels.trouble)
    (options.out / "smoke.json").write_text(json.dumps(found, indent=1) + "\n")


def training_step(options: argparse.Namespace) -> None:
    """A step of ResNet-18 and the layer's own part."""
    if options.rehearse:
        gpu_training_step.GROUP_SIZES, gpu_training_step.SECONDS = (4,), 0.0
    else:
        gpu_training_step.GROUP_SIZES, gpu_training_step.SECONDS = (64, 16, 4), 8.0
    device: Device = Rehearsal() if options.rehearse else Cuda()
    limit = ["--limit-seconds", str(options.seconds - 15)]
    gpu_training_step.main(limit, device, options.out, 4 if options.rehearse else gpu_training_step.IMAGES)


def eigendecompositions(options: argparse.Namespace) -> None:
    """The grid, cheap cases first."""
    if options.rehearse:
        gpu.SIZES, gpu.BATCHES, gpu.SECONDS = (3, 16), (1, 16), 0.0
    else:
        gpu.SIZES, gpu.SECONDS = (3, 4, 8, 16, 32, 33, 64, 128), 0.6
    device: Device = Rehearsal() if options.rehearse else Cuda()
    gpu.main(["--limit-seconds", str(options.seconds - 15)], device, options.out)


def decode(options: argparse.Namespace) -> None:
    """The images as tensors, into a file for `train`."""
    found = {split: _images(split, options) for split in ("train", "test")}
    torch.save(found, DECODED)
    say(f"decoded {[len(labels) for _, labels in found.values()]} images")


def _images(split: str, options: argparse.Namespace) -> tuple[torch.Tensor, torch.Tensor]:
    most = 600 if options.rehearse else 60_000
    if options.images is None:
        generator = torch.Generator().manual_seed(len(split))
        images = torch.randint(256, (most, 3, 32, 32), dtype=torch.uint8, generator=generator)
        return images, torch.arange(most) % 10
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(next(options.images.rglob(f"{split}-*.parquet"))).slice(0, most)
    blobs = [row["bytes"] for row in table.column("img").to_pylist()]
    with ProcessPoolExecutor(2 if options.rehearse else 8) as pool:
        pixels = np.concatenate(list(pool.map(_pixels, [blobs[k : k + 500] for k in range(0, len(blobs), 500)])))
    labels = torch.tensor(table.column("label").to_pylist())
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), labels


def _pixels(blobs: list[bytes]) -> np.ndarray:
    from PIL import Image

    return np.stack([np.asarray(Image.open(io.BytesIO(blob)).convert("RGB")) for blob in blobs])


PARTS = {"smoke": smoke, "training-step": training_step, "eigh": eigendecompositions, "decode": decode}


def measure(options: argparse.Namespace) -> None:
    """All parts, each with a time of its own."""
    module = [sys.executable, "-m", "benchmarks.fifteen_minutes"]
    shared = ["--out", str(options.out), *(["--rehearse"] if options.rehearse else [])]
    shared += ["--images", str(options.images)] if options.images else []
    tests = [sys.executable, "-m", "pytest", "-m", "gpu", "tests/test_gpu.py", "-p", "no:cacheprovider"]
    decoding = subprocess.Popen([*module, "decode", *shared], cwd=ROOT)

    def part(name: str, seconds: float, command: list[str] | None = None) -> None:
        say(f"{name}: begins, at most {seconds:.0f} s")
        command = command or [*module, name, *shared, "--seconds", f"{seconds:.0f}"]
        with (options.out / "log.txt").open("a") as log:
            child = subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT, start_new_session=True)
            try:
                ended: int | str = child.wait(seconds)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)
                ended = "out of time"
        say(f"{name}: {ended}")

    part("smoke", 60)
    part("tests", 110, tests)
    if (ROOT / "results/gpu-tests.json").exists():
        shutil.copy(ROOT / "results/gpu-tests.json", options.out)
    decoding.wait()  # timings want the cores, too
    part("training-step", 70)
    part("eigh", max(options.seconds - elapsed() - 5, 20))


# `train`


def train(options: argparse.Namespace) -> None:
    """Table 1, its slowest cell last; what is not done when the time is over counts as not run."""
    sys.modules.setdefault("tyro", _without_tyro())
    from rich.console import Console

    from eigengrad_lab import recipes
    from eigengrad_lab.data import ImageData
    from eigengrad_lab.report.write import write_report
    from eigengrad_lab.runs.engines import local
    from eigengrad_lab.runs.engines.work import Work
    from eigengrad_lab.runs.execution import Recording
    from eigengrad_lab.runs.records import trainings

    if not DECODED.exists():
        decode(options)
    found = torch.load(DECODED)
    data = ImageData(*found["train"], *found["test"], classes=10, pad=4, flip=True)
    varied = recipes.Whitening(METHODS, group_sizes=(4, 64) if options.rehearse else (4, 16, 64))
    common = {"data": "cifar10" if options.images else "noise", "model": "small" if options.rehearse else "resnet18"}
    small = {"train_images": 256, "test_images": 64} if options.rehearse else {}
    seeds, epochs = (1, 1) if options.rehearse else (3, 6)
    configs = recipes.grid(varied, seeds=seeds, epochs=epochs, **common, **small, **recipes.RECIPES["fast"])
    configs.sort(key=lambda config: (config.method == "pi") * (config.group_size or 0))
    output = Path(tempfile.mkdtemp(prefix="eigengrad-runs-"))
    recording = Recording(trainings(output), "benchmarks.fifteen_minutes train", checkpoint_seconds=1e9)
    device = torch.device("cpu" if options.rehearse else "cuda")
    until = time.monotonic() + max(options.seconds - elapsed() - 30, 10)
    work = Work(configs, data, recording, device, 2 if options.rehearse else 12, say, until=until)
    for config, outcome in local.run(work):
        say(f"{config.method}, d = {config.group_size}, seed {config.seed}: {outcome}")
    shown, _ = write_report("table1", configs, output)
    with (options.out / "table1.txt").open("w") as file:
        Console(file=file, width=150).print(shown)
    with tarfile.open(options.out / "table1-runs.tgz", "w:gz") as tar:
        keep = lambda item: None if item.name.endswith((".pt", ".lock")) else item  # noqa: E731
        tar.add(output, arcname="runs", filter=keep)
    print((options.out / "table1.txt").read_text())


def _without_tyro() -> types.ModuleType:
    """What the recipes take from the library that reads the laboratory's command line, which is not read here."""
    try:
        import tyro
    except ImportError:
        stand_in = types.ModuleType("tyro")
        stand_in.conf = types.SimpleNamespace(UseAppendAction=None, arg=lambda **_: None)  # type: ignore[attr-defined]
        return stand_in
    return tyro


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fifteen_minutes", description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("measure", "train", *PARTS))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--rehearse", action="store_true")
    options = parser.parse_args()
    options.out = options.out.resolve()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.seconds is None:
        options.seconds = 400.0 if options.what == "train" else 330.0
    if not options.rehearse and options.what != "decode" and not torch.cuda.is_available():
        parser.exit(2, "there is no GPU that torch can use; nothing was measured. --rehearse does it in little\n")
    {"measure": measure, "train": train, **PARTS}[options.what](options)


if __name__ == "__main__":
    main()
