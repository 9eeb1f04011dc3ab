"""
Denoising by principal components of patches
============================================

Patches of a photograph lie near a subspace; noise does not. The projector on the leading eigenvectors of their
covariance removes what lies outside. It depends on no sign and no basis of eigenvectors, only on the gap at the
cut, and so has a derivative: here we use it to *learn a linear transform* of the patches, in which the projection
denoises better.
"""

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_sample_image
from torch import Tensor
from torch.nn.functional import fold, interpolate, unfold

import eigengrad as eg

PATCH, RANK, NOISE = 6, 7, 0.15
generator = torch.Generator().manual_seed(0)
photograph = torch.tensor(load_sample_image("china.jpg")).double().mean(-1)[None, None] / 255
clean = interpolate(photograph, size=(160, 240), mode="area")
noisy = clean + NOISE * torch.randn(clean.shape, generator=generator, dtype=clean.dtype)


def denoise(picture: Tensor, transform: Tensor) -> Tensor:
    """Project patches, in the coordinates of ``transform (d, d)``, on their leading principal components."""
    patches = unfold(picture, PATCH)[0]
    mean = patches.mean(1, keepdim=True)
    coordinates = transform @ (patches - mean)
    projected = eg.projector(coordinates.cov(), RANK) @ coordinates
    back = torch.linalg.solve(transform, projected) + mean
    whole = fold(back[None], picture.shape[-2:], PATCH)
    return whole / fold(torch.ones_like(back)[None], picture.shape[-2:], PATCH)


def psnr(picture: Tensor) -> float:
    """Peak signal to noise ratio, in decibels."""
    return -10 * (picture - clean).square().mean().log10().item()


# %%
# Train the transform on the upper left quarter, through the projector.

transform = torch.eye(PATCH * PATCH, dtype=clean.dtype, requires_grad=True)
optimizer = torch.optim.Adam([transform], lr=1e-2)
corner = (..., slice(0, 80), slice(0, 120))
losses = []
for _ in range(60):
    loss = (denoise(noisy[corner], transform) - clean[corner]).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())

with torch.no_grad():
    plain = denoise(noisy, torch.eye(PATCH * PATCH, dtype=clean.dtype))
    learned = denoise(noisy, transform)

pictures = {"noisy": noisy, "principal components": plain, "in learned coordinates": learned, "clean": clean}
figure, axes = plt.subplots(2, 2, figsize=(10, 7), layout="constrained")
for axis, (name, picture) in zip(axes.flat, pictures.items(), strict=True):
    axis.imshow(picture[0, 0], cmap="gray", vmin=0, vmax=1)
    axis.set_title(name if name == "clean" else f"{name}: {psnr(picture):.2f} dB")
    axis.axis("off")
plt.show()
