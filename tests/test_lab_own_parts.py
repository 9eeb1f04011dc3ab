"""A researcher's own rule, solver, layer, network and rows of a table, each by its import path; and the fair rivals."""

import dataclasses
import json
import math
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import fails, here
from torch import nn

import eigengrad as eg
from eigengrad_lab import data, methods, models, parts, recipes
from eigengrad_lab.cli.parser import parse
from eigengrad_lab.config import RunConfig, UsageError
from eigengrad_lab.paper_whitening import PaperWhitening
from eigengrad_lab.runs.records import recorded_runs
from eigengrad_lab.training import Training

EXAMPLES = Path(__file__).parent.parent / "examples"
MODULE = '''
import torch
from torch import nn
from dataclasses import dataclass
import eigengrad as eg

@dataclass(frozen=True)
class Half:
    """Half of the exact weight."""
    share: float = 0.5
    def kernel(self, eigenvalues):
        return self.share * eg.Lorentzian(width=1e-3).kernel(eigenvalues)
    def bound(self, smallest, largest):
        return 1e3

class Solver:
    differentiable = False
    def __call__(self, A, UPLO="L"):
        return torch.linalg.eigh(A)

def make(channels, group_size=None):
    return nn.GroupNorm(channels // (group_size or channels), channels)

def plain(channels):
    return nn.InstanceNorm2d(channels)

def build(layer, *, inputs, classes):
    return nn.Sequential(nn.Conv2d(inputs, 16, 3), layer(16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(16, classes))

def wrong(*_, **__):
    return 3

class Shapeless(Half):
    def kernel(self, eigenvalues):
        return eigenvalues

class Argumentless(Half):
    def kernel(self):
        return 3

def without_layer(layer, *, inputs, classes):
    layer(64)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))

def few_logits(layer, *, inputs, classes):
    return build(layer, inputs=inputs, classes=3)

def picky(channels):
    raise ValueError("I like no channels")
'''
TINY = ["--epochs", "2", "--train-images", "130", "--test-images", "100"]


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a fresh module in the current folder."""
    name = f"mine_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def configured(root: Path) -> RunConfig:
    (record,) = recorded_runs(root / "trainings")[0]
    return record.config


@pytest.mark.parametrize(
    ("options", "method"),
    [
        (["--gradient", "{}:Half", "--group-size", "8"], "Half"),
        (["--gradient", "{}:Half(share=0.25)", "--layer", "pca"], "Half_share_0_25"),
        (["--solver", "{}:Solver", "--group-size", "8"], "Solver"),
        (["--solver", "qr", "--gradient", "eigengrad:Taylor(degree=4)"], "Taylor_degree_4"),
        (["--layer", "{}:make", "--group-size", "8"], "make"),
        (["--layer", "{}:plain"], "plain"),
        (["--model", "{}:build", "--method", "ours", "--group-size", "16"], "ours"),
        (["--method", "half={}:Half,solver=qr,clip-norm=1", "--group-size", "4"], "half"),
    ],
)
def test_train(
    options: list[str], method: str, module: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each part by one flag; its run has a name and a record."""
    words = [word.format(module) for word in options]
    with pytest.raises(SystemExit):
        from eigengrad_lab.__main__ import main

        main(["train", *words, *TINY, "--output", str(tmp_path)])
    assert configured(tmp_path).method == method
    assert "Traceback" not in capsys.readouterr().err


def test_rows_of_tables(module: str, tmp_path: Path) -> None:
    """In worker processes, from the command to the page, which needs the module no more."""
    command = [sys.executable, "-m", "eigengrad_lab", "reproduce", "table1", "--methods", "ours", "svd-clipped"]
    command += ["--method", f"half={module}:Half", "--method", f"mine=layer={module}:plain", "--group-sizes", "4", "8"]
    command += ["--seeds", "1", *TINY, "--workers", "2", "--output", "runs"]
    env = {**os.environ, "PYTHONPATH": str(EXAMPLES.parent)}  # the current folder is on no path but the command's own
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr + done.stdout
    assert len(list((tmp_path / "runs" / "trainings").iterdir())) == 2 + 2 + 2 + 1
    (folder,) = (tmp_path / "runs" / "reports").iterdir()
    assert folder.name == "digits-small-2epochs-130images-100tested"
    (tmp_path / f"{module}.py").unlink()
    again = [sys.executable, "-m", "eigengrad_lab", "report", "--output", "runs"]
    done = subprocess.run(again, capture_output=True, text=True, check=False, cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    page = (folder / "report.html").read_text()
    assert "SVD + clipping" in page
    assert "</i>half</th>" in page
    assert "</i>mine</th>" in page


def test_a_changed_source_is_another_run(module: str, tmp_path: Path) -> None:
    before = parts.canonical(f"{module}:Half", "--gradient")
    assert isinstance(parts.load(before, "--gradient").share, float)
    (tmp_path / f"{module}.py").write_text(MODULE + "\n# another thought\n")
    assert parts.canonical(f"{module}:Half", "--gradient") != before
    with pytest.raises(UsageError, match="its source has changed since this run was begun"):
        parts.load(before, "--gradient")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--gradient", "no_such_thing:Half"], "no module no_such_thing here or installed"),
        (["--gradient", "{}:Halve"], "has no Halve (did you mean 'Half'?)"),
        (["--gradient", "{}:Half(nonsense=1)"], "unexpected keyword argument 'nonsense'"),
        (["--gradient", "{}:Half(__import__('os'))"], "not of the form module:object"),
        (["--gradient", "Half"], "must be module:object, such as eigengrad:Taylor(degree=4)"),
        (["--gradient", "{}:Solver"], "a rule has kernel(eigenvalues) and bound(smallest, largest)"),
        (["--solver", "eihg"], "solver must be one of"),
        (["--layer", "{}:wrong"], "it must return a torch.nn.Module, got int"),
        (["--model", "{}:wrong"], "it must return a torch.nn.Module, got int"),
        (["--gradient", "{}:Shapeless"], "kernel must return a matrix (*, n, n) for eigenvalues (*, n), got (2, 3)"),
        (["--gradient", "{}:Argumentless"], "calling it fails: TypeError: Argumentless.kernel() takes 1 positional"),
        (["--layer", "{}:picky"], "calling it fails: ValueError: I like no channels"),
        (["--layer", "{}:plain", "--group-size", "8"], "calling it fails: TypeError: plain() got an unexpected"),
        (["--model", "{}:without_layer"], "the network has no layer(channels), the one under test"),
        (["--model", "{}:build"], "its layer has 16 channels, fewer than group_size, 64; give a smaller --group-size"),
        (["--model", "{}:few_logits", "--group-size", "4"], "it must make logits (128, 10), got (128, 3)"),
        (["--method", "ours={}:Half"], "the name 'ours' is a method of the laboratory"),
        (["--method", "half={}:Half,colour=red"], "unknown 'colour'"),
        (["--method", "half=Half"], "gradient must be module:object, got 'Half'"),
    ],
)
def test_mistakes(
    options: list[str], message: str, module: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word.format(module) for word in options]
    code, said = fails(capsys, "train", *words, *TINY, "--output", str(tmp_path / "runs"))
    assert code == 2
    assert said.startswith("error: ")
    assert message in said
    assert said.count("\n") == 1


def test_a_module_that_does_not_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "broken_module.py").write_text("1 / 0\n")
    with pytest.raises(UsageError, match="importing broken_module fails: ZeroDivisionError: division by zero"):
        parts.canonical("broken_module:Half", "--gradient")
    (tmp_path / "a_script.py").write_text("raise SystemExit(0)\n")
    with pytest.raises(UsageError, match="importing a_script fails: SystemExit: 0"):
        parts.canonical("a_script:Half", "--gradient")


def test_every_method_has_a_label_and_a_colour_of_its_own() -> None:
    known = [*methods.METHODS, "half", "mine"]
    assert len({methods.label(name) for name in known}) == len(known)
    assert len({method.colour for method in methods.METHODS.values()}) == len(methods.METHODS)
    assert methods.in_order(["half", "ours", "batchnorm", "half"]) == ["batchnorm", "ours", "half"]


def test_the_pairs_of_the_paper_and_its_rivals() -> None:
    """The laboratory names each rule itself: a new default of the library changes no row."""
    varied = recipes.Whitening(tuple(methods.METHODS), group_sizes=(8,))
    found = {
        config.method: models.pair(config)
        for config in recipes.grid(varied, data="digits", model="small", epochs=2, seeds=1)
        if config.layer is not None
    }
    assert found["svd"] == ("svd", eg.Exact())
    assert found["ours"] == ("svd", eg.PowerIteration(19))
    assert found["pi"][1] == eg.Unrolled()
    assert found["qr"] == ("qr", eg.Exact())
    assert found["closed-form"][1] is None
    assert found["svd-clipped"] == found["svd-skip"] == ("svd", eg.Exact())
    assert found["svd-taylor"] == ("svd", eg.Taylor(9))
    assert found["svd-lorentzian"] == ("svd", eg.Lorentzian(3.5e-4))


BASE = RunConfig(data="digits", model="small", method="ours", group_size=16, seed=0, epochs=2, train_images=300)


@pytest.fixture(scope="module")
def digits() -> data.ImageData:
    return data.load("digits", train_images=300)


def test_clipping_bounds_the_step(digits: data.ImageData) -> None:
    """The recorded norm is the one before; the step is that of a gradient of the bound."""
    config = dataclasses.replace(BASE, clip_norm=1e-3, sgd_momentum=0.0, weight_decay=0.0, learning_rate=1.0)
    training = Training(config, digits)
    before = [p.detach().clone() for p in training.network.parameters()]
    next(training.run_epoch())
    after = [p.detach() for p in training.network.parameters()]
    moved = math.sqrt(sum(float((p - b).square().sum()) for p, b in zip(after, before, strict=True)))
    assert moved == pytest.approx(1e-3, rel=1e-3)
    assert float(training.trace[0][1]) > 1e-2


def test_bad_steps_are_skipped_and_counted(digits: data.ImageData) -> None:
    """Exact gradients at 64 channels of rank 9 are never finite: nothing moves, and that is the result."""
    config = dataclasses.replace(BASE, method="svd-skip", group_size=64, bad_steps="skip")
    training = Training(config, digits)
    before = [p.detach().clone() for p in training.network.parameters()]
    for _ in training.run_epoch():
        pass
    assert all(torch.equal(p, b) for p, b in zip(training.network.parameters(), before, strict=True))
    result = training.end_epoch()
    assert training.metrics[0].skipped_steps == 3
    assert result is not None
    assert result.reason == "every step was skipped"
    good = Training(dataclasses.replace(BASE, bad_steps="skip"), digits)
    for _ in good.run_epoch():
        pass
    assert good.end_epoch() is None
    assert good.metrics[0].skipped_steps == 0


@pytest.mark.parametrize(
    "change",
    [
        {"amp": "bf16"},
        {"channels_last": True},
        {"label_smoothing": 0.1},
        {"schedule": "one-cycle", "nesterov": True},
        {"schedule": "cosine", "warmup_epochs": 0.5},
    ],
    ids=str,
)
def test_recipes_train(change: dict, digits: data.ImageData) -> None:
    training = Training(dataclasses.replace(BASE, **change), digits)
    losses = []
    for _ in range(2):
        for _ in training.run_epoch():
            pass
        training.end_epoch()
        losses.append(training.metrics[-1].train_loss)
    assert losses[1] < losses[0]
    assert dataclasses.replace(BASE, **change).identity != BASE.identity


def test_compiled(digits: data.ImageData) -> None:
    """The first steps are those of eager training; evaluation and checkpoints know the plain network."""
    eager, compiled = Training(BASE, digits), Training(dataclasses.replace(BASE, compile=True), digits)
    for training in (eager, compiled):
        steps = training.run_epoch()
        next(steps)
        next(steps)
    torch.testing.assert_close(torch.stack(compiled.trace), torch.stack(eager.trace), rtol=1e-3, atol=1e-3)
    assert compiled.state_dict()["network"].keys() == eager.state_dict()["network"].keys()


def test_schedules() -> None:
    config = dataclasses.replace(BASE, epochs=10, schedule="one-cycle", learning_rate=1.0)
    rates = [config.learning_rate_at(epoch) for epoch in (0, 1, 2, 6, 9.99)]
    assert rates == pytest.approx([0.01, 0.505, 1.0, 0.5, 0.00125], abs=1e-6)
    config = dataclasses.replace(BASE, epochs=10, schedule="cosine", warmup_epochs=2, learning_rate=1.0)
    assert [config.learning_rate_at(epoch) for epoch in (1, 2, 6, 10)] == pytest.approx([0.5, 1.0, 0.5, 0.0])


def test_the_fast_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = here(capsys, "train", "--recipe", "fast", "--dry-run", "--train-images", "200", "--output", str(tmp_path))
    for line in ("schedule one-cycle", "nesterov True", "epochs 8", "milestones []"):
        assert line in shown


def test_the_old_identities_hold() -> None:
    """Records of the first version are found by the fields that there are now."""
    config = RunConfig(data="digits", model="small", method="batchnorm", layer=None, seed=0, epochs=10,
                       milestones=recipes.milestones(10))  # fmt: skip
    assert config.identity == "batchnorm-seed0-632b06b5"
    fields = json.loads(json.dumps(config.to_dict()))
    first = list(fields)[: list(fields).index("gradient")]
    assert RunConfig.from_dict({name: fields[name] for name in first}) == config


def test_an_own_network_has_the_layer_where_it_asks(module: str) -> None:
    config = dataclasses.replace(BASE, model=parts.canonical(f"{module}:build", "--model"))
    network = models.build(config, image_channels=1, classes=10, generator=torch.Generator())
    assert isinstance(network, nn.Sequential)
    assert isinstance(network[1], PaperWhitening)
    assert len(network[1].weight) == 16


def test_the_example_keeps_a_rules_contract(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    eg.testing.check_gradient_rule(parts.load("own_method:Half", "--gradient"))


def test_the_pages_own_method_commands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the example says of itself: every command there trains, at a tiny scale."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    text = (EXAMPLES / "own_method.py").read_text()
    commands = [line.split()[1:] for line in text.splitlines() if line.startswith("    eigengrad ")]
    assert len(commands) == 4
    for command in commands:
        sized = [*command, *TINY, "--output", "runs"]
        sized += ["--methods", "--group-sizes", "16", "--seeds", "1", "--workers", "1"] if "table1" in sized else []
        with pytest.raises(SystemExit) as exit_:
            from eigengrad_lab.__main__ import main

            main(sized)
        assert exit_.value.code in (0, 1)  # 1: so short a training may well fail
    methods_found = {record.config.method for record in recorded_runs(tmp_path / "runs" / "trainings")[0]}
    assert methods_found == {"Half", "decorrelation", "ours", "half", "mine"}
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["folder", "archive"])
def test_own_data(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder of grey pictures, an archive: one command each, from the images to a record."""
    from test_lab_data import make_pictures

    monkeypatch.chdir(tmp_path)
    if kind == "folder":
        make_pictures(tmp_path / "pictures", mode="L")
        words = ["--data", "pictures", "--test-split", "valid", "--crop", "0", "--flip", "off"]
    else:
        pixels = np.random.default_rng(0).integers(0, 256, (12, 8, 8), dtype=np.uint8)
        np.savez("set.npz", x_train=pixels, y_train=np.arange(12) % 3, x_test=pixels, y_test=np.arange(12) % 3)
        words = ["--data", "set.npz"]
    with pytest.raises(SystemExit):
        from eigengrad_lab.__main__ import main

        main(["train", *words, "--model", "small", "--group-size", "8", "--epochs", "2", "--output", "runs"])
    (record,) = recorded_runs(tmp_path / "runs" / "trainings")[0]
    assert record.config.data.startswith("pictures-" if kind == "folder" else "set-")
    assert record.result() is not None
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("page", ["docs/laboratory.md", "REPRODUCTION.md"])
def test_every_command_of_the_pages_is_understood(page: str) -> None:
    """No flag or name in them that there is not."""
    text = (EXAMPLES.parent / page).read_text()
    commands = [shlex.split(line, comments=True)[1:] for line in text.splitlines() if line.startswith("    eigengrad ")]
    for command in commands:
        words = ["table1" if word.startswith("{table1") else word for word in command]
        assert parse(["zca" if word == "RUN" else word for word in words])
    assert len(commands) >= 3
