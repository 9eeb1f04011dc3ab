"""
Robust PCA: what stands still and what moves
============================================

The frames of a fixed camera are a matrix of low rank, the scene under a changing light, and a sparse one, what passes
by. Alternating two soft thresholds, of singular values and of entries, takes them apart. Which thresholds? A few
iterations with thresholds of their own are a small network. It is trained on one film whose scene is known, through
``eg.soft_threshold``: the first matrix that it sees has singular values near each other and near zero, where the
derivatives of the vectors explode and that of the function does not. Then it is used on another film.
"""

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_sample_image
from torch import Tensor
from torch.nn.functional import interpolate

import eigengrad as eg

FRAMES, SIZE, ITERATIONS = 32, (48, 72), 8
generator = torch.Generator().manual_seed(0)


def photograph(name: str) -> Tensor:
    """Grey, small."""
    picture = torch.tensor(load_sample_image(name)).double().mean(-1)[None, None] / 255
    return interpolate(picture, size=SIZE, mode="area")[0, 0]


def film(scene: Tensor, visitors: int = 5) -> tuple[Tensor, Tensor]:
    """Frames and the scene alone, each ``(pixels, FRAMES)``: clouds come and go, discs cross the picture."""
    time = torch.linspace(0, 1, FRAMES, dtype=torch.float64)
    y, x = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in SIZE), indexing="ij")
    light = 0.8 + 0.2 * (7 * time).cos()[:, None, None] * (1 - x / SIZE[1])
    still = light * scene
    frames = still.clone()
    for _ in range(visitors):
        start, way, radius, grey = torch.rand(4, 2, generator=generator, dtype=torch.float64)
        centre = torch.stack(
            [start[0] * SIZE[0] + 20 * (way[0] - 0.5) * time, SIZE[1] * (1.4 * (time - start[1] + 0.3))]
        )
        distance = (y - centre[0, :, None, None]).hypot(x - centre[1, :, None, None])
        frames = torch.where(distance < 3 + 4 * radius[0], grey[0], frames)
    return frames.flatten(1).T, still.flatten(1).T


def separate(frames: Tensor, low: Tensor, sparse: Tensor) -> Tensor:
    """What stands still, by an iteration for each pair of thresholds."""
    moving = torch.zeros_like(frames)
    for t, u in zip(low, sparse, strict=True):
        still = eg.soft_threshold(frames - moving, t)
        difference = frames - still
        moving = difference - difference.clamp(-u, u)
    return still


def error(found: Tensor, still: Tensor) -> Tensor:
    """Root of the mean square."""
    return (found - still).square().mean().sqrt()


# %%
# Training, and a new film.

frames, still = film(photograph("flower.jpg"))
logarithms = torch.tensor([[1.0], [-2.0]], dtype=torch.float64).repeat(1, ITERATIONS).requires_grad_()
optimizer = torch.optim.Adam([logarithms], lr=0.1)
for _ in range(50):
    loss = error(separate(frames, *logarithms.exp()), still)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

frames, still = film(photograph("china.jpg"))
with torch.no_grad():
    found = separate(frames, *logarithms.exp())
    left, values, right = torch.linalg.svd(frames, full_matrices=False)
    plain = left[:, :2] * values[:2] @ right[:2]
learned, by_pca = error(found, still).item(), error(plain, still).item()
print(f"error of the scene: {by_pca:.4f} by principal components, {learned:.4f} by the learned iterations")
print("thresholds of singular values and of entries:", logarithms.detach().exp(), sep="\n")

# %%
# Frames; what stands still, by the two; what moves.

rows = {
    "film": frames,
    f"principal components\nerror {by_pca:.3f}": plain,
    f"robust, learned\nerror {learned:.3f}": found,
    "what moves": (frames - found).abs(),
}
figure, axes = plt.subplots(len(rows), 5, figsize=(12, 6.6), layout="constrained")
for line, (title, values) in zip(axes, rows.items(), strict=True):
    line[0].set_ylabel(title)
    for axis, at in zip(line, range(3, FRAMES, 6), strict=False):
        dark = title == "what moves"
        axis.imshow(values[:, at].view(SIZE), cmap="inferno" if dark else "gray", vmin=0, vmax=0.6 if dark else 1)
        axis.set(xticks=[], yticks=[])
plt.show()
