"""What the layers share with ``nn.BatchNorm2d``: parameters, running estimates, and which of them are used when."""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from numbers import Real
from typing import Any, Self

import torch
from torch import Tensor, nn

from eigengrad import solvers
from eigengrad.arguments import check_tensor
from eigengrad.gradients import GradientRule, Unrolled, check_rule
from eigengrad.nn.functional.batch_statistics import AffineMap, check_settings, evaluate
from eigengrad.nn.functional.distributed import Processes, check_processes, resolved
from eigengrad.nn.functional.moments import working_dtype
from eigengrad.nn.kept import Kept, Settings, is_recorded, is_symbolic
from eigengrad.nn.leaf import as_leaf, is_proxy

__all__ = ["Normalization"]

ESTIMATES = ("running_mean", "running_covariance")


class Normalization(nn.Module):
    """The part of ``nn.BatchNorm2d`` that does not depend on what is computed.

    No subclass of PyTorch's own base class, which ``SyncBatchNorm.convert_sync_batchnorm`` replaces without a word.

    Args:
        num_features: number of channels C.
        eps, momentum, affine, track_running_stats, device, dtype, bias: as for ``nn.BatchNorm2d``.
        group_size: d.
        gradient, solver: of what is differentiated by eigenvectors.
        process_group, errors: as for :func:`eigengrad.whiten`.
        dim: which dimension of the input is that of the channels.
    """

    weight: nn.Parameter | None
    bias: nn.Parameter | None
    running_mean: Tensor | None
    running_covariance: Tensor | None
    num_batches_tracked: Tensor | None

    def __init__(
        self,
        num_features: int,
        eps: float,
        momentum: float | None,
        affine: bool,
        track_running_stats: bool,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
        *,
        group_size: int,
        gradient: GradientRule | Unrolled | None,
        solver: solvers.Name | solvers.Solver,
        bias: bool,
        process_group: Processes,
        errors: str,
        dim: int,
    ) -> None:
        super().__init__()
        if isinstance(num_features, bool) or not isinstance(num_features, int) or num_features < 1:
            raise ValueError(f"num_features must be an int of at least 1, got {num_features!r}")
        numbers: dict[str, object] = {"eps": eps, "momentum": 0.0 if momentum is None else momentum}
        for name, number in numbers.items():
            if not isinstance(number, Real):
                raise TypeError(f"{name} must be a number, got {number!r} of type {type(number).__name__}")
        check_settings(eps, errors)
        if not isinstance(gradient, Unrolled | None):
            check_rule(gradient)
        solvers.resolve(solver)
        if dtype is not None and not dtype.is_floating_point:
            raise TypeError(f"dtype must be real and floating point, got {dtype}")
        check_processes(process_group)
        if dim == 0:
            raise ValueError("dim must not be 0, the batch's dimension: give the channels', such as 1 or -1")
        self.num_features = num_features
        self.eps = eps
        self.momentum = momentum
        self.affine = affine
        self.track_running_stats = track_running_stats
        self.process_group = process_group
        self.errors = errors
        self.dim = dim
        self.gradient = gradient
        self.solver = solver
        self._group_size = group_size
        self._kept = Kept()
        self._warned = False

        def empty(*shape: int, dtype: torch.dtype | None = dtype) -> Tensor:
            return torch.empty(shape, device=device, dtype=dtype)

        self.register_parameter("weight", nn.Parameter(empty(num_features)) if affine else None)
        self.register_parameter("bias", nn.Parameter(empty(num_features)) if affine and bias else None)
        wide = torch.promote_types(dtype or torch.get_default_dtype(), torch.float32)
        tracked = track_running_stats
        self.register_buffer("running_mean", empty(num_features, dtype=wide) if tracked else None)
        self.register_buffer("running_covariance", empty(num_features, group_size, dtype=wide) if tracked else None)
        self.register_buffer("num_batches_tracked", empty(dtype=torch.long) if tracked else None)
        self.reset_parameters()

    def reset_running_stats(self) -> None:
        """Forget what was seen, as before the first batch: mean 0, and the identity as covariance."""
        for buffer in (self.running_mean, self.num_batches_tracked):
            if buffer is not None:
                buffer.zero_()
        if self.running_covariance is not None:
            channels, d = self.running_covariance.shape
            row, column = (torch.arange(size, device=self.running_covariance.device) for size in (channels, d))
            self.running_covariance.copy_(row.unsqueeze(-1) % d == column)

    def reset_parameters(self) -> None:
        """Scale 1, offset 0, and :meth:`reset_running_stats`."""
        self.reset_running_stats()
        if self.weight is not None:
            nn.init.ones_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x (N, C)`` or ``(N, C, *)``, or with its channels where ``dim`` says."""
        if is_proxy(x):
            return as_leaf(self, x)
        check_tensor(x, "x")
        if x.dim() < 2 or not -x.dim() < self.dim < x.dim() or x.shape[self.dim] != self.num_features:
            raise ValueError(self._expected(x))
        dim = self.dim % x.dim()  # TorchScript's ONNX exporter takes no negative one
        y = x if dim == 1 else x.movedim(dim, 1)
        estimated = self.running_mean is not None and self.running_covariance is not None
        y = self._by_estimates(y) if estimated and not self.training else self._by_batch(y)
        return y if dim == 1 else y.movedim(1, dim)

    def train(self, mode: bool = True) -> Self:
        """As for any module; in evaluation, the matrix is made ready, so that tracers find it."""
        super().train(mode)
        self._make_ready()
        return self

    def evaluation_maps(self, dtype: torch.dtype = torch.float32) -> Iterator[AffineMap]:
        """What evaluation does to each block of channels, in this dtype."""
        raise NotImplementedError

    def evaluation_matrix(self) -> Tensor:
        """Derived from the running covariance, ``(C, d)``; kept until that changes."""
        assert self.running_covariance is not None
        kept, estimate, settings = self._kept, self.running_covariance, self._settings()
        if torch.compiler.is_compiling() or is_recorded():
            if not kept.of(settings):
                return self._derived(estimate)
            assert kept.matrix is not None and kept.estimate is not None
            return kept.matrix if is_recorded() else self._derived_unless(estimate, kept.estimate, kept.matrix)
        if is_symbolic(estimate):
            return self._derived(estimate)
        kept.renew(estimate, settings, self._derived)
        assert kept.matrix is not None
        return kept.matrix

    def _settings(self) -> Settings:
        """What the derived matrix depends on, beside the estimate."""
        raise NotImplementedError

    def _derived(self, covariance: Tensor) -> Tensor:
        raise NotImplementedError

    def _derived_unless(self, covariance: Tensor, kept: Tensor, matrix: Tensor) -> Tensor:
        """``matrix`` if the covariance is what ``kept`` is: as an operator, for compilers."""
        raise NotImplementedError

    def _normalized(self, x: Tensor, **arguments: Any) -> Tensor:
        """By the moments of the batch."""
        raise NotImplementedError

    def _by_estimates(self, x: Tensor) -> Tensor:
        if not x.is_floating_point():
            raise TypeError(f"x must be real and floating point, got {x.dtype}")
        return evaluate(x, self.evaluation_maps(working_dtype(x)), self._group_size)

    def _by_batch(self, x: Tensor) -> Tensor:
        tracked = self.training and self.track_running_stats and self.running_mean is not None
        uncounted = self.num_batches_tracked is None
        estimates = {name: getattr(self, name) if tracked else None for name in (*ESTIMATES, "num_batches_tracked")}
        self._warn_of_few(x)
        return self._normalized(
            x,
            **estimates,
            weight=self.weight,
            bias=self.bias,
            training=True,
            momentum=0.0 if not tracked or (self.momentum is None and uncounted) else self.momentum,
            eps=self.eps,
            process_group=self.process_group if self.training else None,
            errors=self.errors,
        )

    def _warn_of_few(self, x: Tensor) -> None:
        """Once, if a group has too few observations for an estimate. Their number is one of shapes, not of values."""
        if self._warned or not self.training or not self.track_running_stats or torch.compiler.is_compiling():
            return
        observations = x.shape[0] * math.prod(x.shape[2:])
        group = resolved(self.process_group)
        if group is not None:
            observations *= group.size()
        if 1 < observations < 2 * self._group_size:
            self._warned = True
            warnings.warn(
                f"{self}: {observations} observations are few for a covariance of {self._group_size} channels, which "
                f"wants at least {2 * self._group_size}. Training goes on, but evaluation may differ from it: "
                f"{self._advice()}",
                stacklevel=5,
            )

    def _advice(self) -> str:
        return "take larger batches"

    def _expected(self, x: Tensor) -> str:
        C = self.num_features
        shapes = f"(N, {C}) or (N, {C}, *)" if self.dim == 1 else f"{C} channels in dimension {self.dim}"
        hint = "; add a batch dimension" if self.dim == 1 and x.dim() in (3, 4) and x.shape[0] == C else ""
        return f"expected {shapes}, got {tuple(x.shape)}{hint}"

    def _make_ready(self) -> None:
        if not self.training and self.running_mean is not None and self.running_covariance is not None:
            self._kept.renew(self.running_covariance, self._settings(), self._derived)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Estimates are float32 at least: a hundredth of a new one, added to an old one in half precision, is lost."""
        before = {name: getattr(self, name) for name in ESTIMATES}
        super()._apply(fn, recurse)
        for name, old in before.items():
            new = getattr(self, name)
            if new is not None and torch.finfo(new.dtype).bits < 32:
                setattr(self, name, old.to(new.device, torch.float32))
        self._make_ready()
        return self

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, metadata: Any, strict: bool, *lists: list[str]
    ) -> None:
        state_dict.pop(f"{prefix}running_projection", None)  # derived: of earlier versions of PCADenoising
        refused = state_dict.pop(f"{prefix}running_whitening", None) is not None
        super()._load_from_state_dict(state_dict, prefix, metadata, strict, *lists)
        if refused:
            *_, errors = lists
            errors.append(
                f"{prefix}running_whitening is an average of whitening matrices, which a few batches of small variance "
                "dominate, and from which no covariance follows; load with the key left out and strict=False, then "
                "estimate anew by eigengrad.nn.update_statistics(model, loader)"
            )
        for name in ESTIMATES:  # assign=True brings its own dtype
            buffer = getattr(self, name)
            if buffer is not None and torch.finfo(buffer.dtype).bits < 32:
                setattr(self, name, buffer.float())
        self._make_ready()

    def extra_repr(self) -> str:
        """The arguments that ``nn.BatchNorm2d`` shows, and others where they are not the default."""
        text = (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"bias={self.bias is not None}, track_running_stats={self.track_running_stats}"
        )
        others: Mapping[str, tuple[Any, Any]] = {
            "errors": (self.errors, "raise"),
            "dim": (self.dim, 1),
            "process_group": (self.process_group, None),
        }
        return text + "".join(f", {name}={value!r}" for name, (value, default) in others.items() if value != default)
