"""Cost of the ZCA layer against the paper's procedure taken literally, and against BatchNorm.

The literal procedure works one vector at a time. Forward, it decomposes by SVD, adds each eigenvector's share
``v v^T X / sqrt(value)`` to the output, and deflates; backward, autograd walks 19 power iterations for each vector.
A second version, less literal, first collects the shares in one matrix and multiplies the data once.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

import eigengrad as eg
from benchmarks.timing import claim, ratios, report

EPS, ITERATIONS = 1e-4, 19
LITERAL = "literal, one vector at a time"


def literal_vectors(A: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Eigenvalues and eigenvectors ``(d, 1)`` of one matrix, descending, one at a time."""
    start = torch.linalg.svd(A.detach())[0]
    for index in range(A.shape[0]):
        v = start[:, index : index + 1]
        for _ in range(ITERATIONS):
            v = A @ v
            v = v / v.norm()
        value = v.T @ A @ v
        A = A - A @ v @ v.T
        yield value, v


def literal_whitening(x: Tensor, d: int, *, collected: bool = False) -> Tensor:
    """The layer's training step by the literal procedure, one group after the other."""
    outputs = []
    for group in x.split(d, dim=1):
        data = group.transpose(0, 1).reshape(d, -1)
        centred = data - data.mean(dim=1, keepdim=True)
        vectors = literal_vectors(centred @ centred.T / centred.shape[1] + EPS * torch.eye(d, device=x.device))
        if collected:
            whitened = sum(value.rsqrt() * v @ v.T for value, v in vectors) @ centred
        else:
            whitened = sum(value.rsqrt() * v @ (v.T @ centred) for value, v in vectors)
        outputs.append(whitened.reshape(d, x.shape[0], *x.shape[2:]).transpose(0, 1))
    return torch.cat(outputs, dim=1)


def main() -> None:
    """Measure, report, and assert the claim."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.eye(64) + 0.1 * torch.randn(64, 64, generator=generator)
    x = torch.einsum("cd,ndhw->nchw", mixing, torch.randn(128, 64, 32, 32, generator=generator))
    x = x.contiguous().requires_grad_()  # as a convolution returns it
    cotangent = torch.randn(x.shape, generator=generator)

    layers = {
        (label, d): eg.nn.ZCAWhitening(64, group_size=d, gradient=gradient, relative_eps=0.0, shrinkage=0.0)
        for d in (8, 64)
        for label, gradient in (("gradient=None", None), ("gradient=PowerIteration(19)", eg.PowerIteration(ITERATIONS)))
    }
    batchnorm = nn.BatchNorm2d(64)
    measured = {}
    # Before the literal procedure has filled the heap: from then on large tensors are made of memory that is mapped
    # already, which saves either layer the same time, and so changes their ratio (to 1.6 and 3.3).
    for (label, d), layer in layers.items():
        measured[f"{label}, d = {d}"] = ratios(
            lambda layer=layer: layer(x).backward(cotangent),
            {"BatchNorm2d": lambda: batchnorm(x).backward(cotangent)},
            rounds=31,
        )
    for (label, d), layer in layers.items():
        if label != "gradient=None":
            agreement(layer, x, cotangent, d)
        measured[f"{label}, d = {d}"] |= ratios(
            lambda layer=layer: layer(x).backward(cotangent),
            {
                LITERAL: lambda d=d: literal_whitening(x, d).backward(cotangent),
                "literal, collected": lambda d=d: literal_whitening(x, d, collected=True).backward(cotangent),
            },
            rounds=3,
            warmup=1,
        )
    report("whitening", measured)
    for label in ("gradient=None", "gradient=PowerIteration(19)"):
        faster = 1 / measured[f"{label}, d = 64"][LITERAL]["ratio"]
        claim(f"the layer step with {label}, d = 64, is at least 15x faster than literal: {faster:.1f}x", faster >= 15)
        for d, limit in ((8, 1.8), (64, 2.5)):
            cost = measured[f"{label}, d = {d}"]["BatchNorm2d"]["ratio"]
            claim(f"with {label}, d = {d}, it costs at most {limit}x BatchNorm's: {cost:.2f}x", cost <= limit)


def agreement(layer: eg.nn.ZCAWhitening, x: Tensor, cotangent: Tensor, d: int) -> None:
    """The two must compute the same thing, or the comparison means nothing."""
    ours, literal = layer(x), literal_whitening(x, d)
    torch.testing.assert_close(ours, literal, rtol=0, atol=1e-3)
    gradients = [torch.autograd.grad(y, x, cotangent)[0] for y in (ours, literal)]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-3 * gradients[1].abs().max().item())


if __name__ == "__main__":
    main()
