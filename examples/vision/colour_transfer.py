"""
Whitening and colouring two photographs
=======================================

The covariance of small patches is a crude description of a picture's style: its palette and its grain. Whitening
takes the content's away, ``C^(-1/2)``; colouring puts the style's in, ``S^(1/2)``. This is the heart of universal
style transfer, there applied to a network's features. The pictures ship with scikit-learn.
"""

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_sample_images
from torch import Tensor
from torch.nn.functional import fold, interpolate, unfold

import eigengrad as eg

PATCH = 3
china, flower = (
    interpolate(torch.tensor(image).permute(2, 0, 1)[None].double() / 255, scale_factor=0.5, mode="area")
    for image in load_sample_images().images
)


def statistics(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Mean ``(d, 1)`` and covariance ``(d, d)`` of patches ``(d, N)``."""
    return patches.mean(1, keepdim=True), patches.cov()


def transfer(content: Tensor, style: Tensor) -> Tensor:
    """The content's picture with the style's patch statistics."""
    x, y = unfold(content, PATCH, padding=1)[0], unfold(style, PATCH, padding=1)[0]
    (m, C), (n, S) = statistics(x), statistics(y)
    eye = 1e-4 * torch.eye(len(C), dtype=C.dtype)
    coloured = eg.sqrtm(S + eye) @ eg.inv_sqrtm(C + eye) @ (x - m) + n
    overlapping = fold(coloured[None], content.shape[-2:], PATCH, padding=1)
    return overlapping / fold(torch.ones_like(coloured)[None], content.shape[-2:], PATCH, padding=1)


both = {"content": china, "style": flower, "content with the style's statistics": transfer(china, flower)}
both["and the other way"] = transfer(flower, china)

# %%

figure, axes = plt.subplots(2, 2, figsize=(10, 7), layout="constrained")
for axis, (name, picture) in zip(axes.flat, both.items(), strict=True):
    axis.imshow(picture[0].clamp(0, 1).permute(1, 2, 0))
    axis.set_title(name)
    axis.axis("off")
plt.show()

# %%
# The statistics arrive. (Overlapping patches are averaged, so that not all of it survives.)

palette = {name: statistics(picture[0].flatten(1))[1] for name, picture in both.items()}
before = eg.testing.relative_error(palette["content"], palette["style"])
after = eg.testing.relative_error(palette["content with the style's statistics"], palette["style"])
print(f"the palette's covariance differs from the style's by {before:.2f} before, and by {after:.2f} after")
