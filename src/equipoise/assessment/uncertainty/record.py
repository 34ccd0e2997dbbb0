"""What the bootstrap says of some images."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ...equilibrium import Equilibrium, Status
from .parts import Parts


def decibels(rmse: Tensor) -> Tensor:
    """The peak signal-to-noise ratio that a root mean square error of images in [0, 1] is."""
    return -20 * rmse.clamp_min(1e-10).log10()


class UncertaintyWarning(UserWarning):
    """An estimate of the error that cannot be trusted as it is, and why."""


@dataclass
class Uncertainty:
    """x̂ of B images, and how far from the truth it is estimated to be, in the units of x.

    A sample is x̃ = T_g⁻¹ f*(A T_g x̂ + noise): what the reconstruction would be if x̂ were the
    truth, seen from another side. Its deviation from x̂ stands for that of x̂ from the truth.
    Samples with values that are not finite are counted in ``unfinished`` and left out of all else.
    """

    value: Tensor  #: (B, C, …, H, W)  x̂
    std: Tensor  #: (B, C, …, H, W)  root mean square of the samples' deviation from x̂
    lower: Tensor  #: (B, C, …, H, W)  x̂ minus the ``level`` quantile of |deviation|
    upper: Tensor  #: (B, C, …, H, W)  x̂ plus it
    mean: Tensor  #: (B, C, …, H, W)  of the samples; minus x̂, an estimate of the bias
    rmse: Tensor  #: (B,)  predicted error of the whole image: root mean square of ``std``
    rmse_upper: Tensor  #: (B,)  the ``level`` quantile of the samples' root mean square deviation
    level: float  #: of the bounds
    status: Tensor  #: (B,)  the worst :class:`Status` of x̂ and its samples
    sample_status: Tensor  #: (samples, B)  of each sample's solve
    sample_rmse: Tensor  #: (samples, B)  root mean square deviation of each sample
    steps: Tensor  #: (samples, B)  evaluations of f
    blind: Tensor  #: (B,) bool  the group moves nothing to where A is blind: see ``notes``
    notes: list[str] = field(default_factory=list)  #: why not to trust it, in words
    samples: Tensor | None = None  #: (samples, B, C, …, H, W), where they were kept
    measured: Tensor | None = None  #: (B, C, …, H, W)  the part of x̂ that y determines
    invented: Tensor | None = None  #: (B, C, …, H, W)  what the prior adds; their sum is x̂
    measured_std: Tensor | None = None  #: of the samples' deviation, in that part
    invented_std: Tensor | None = None
    widths: Tensor | None = None  #: (levels, B, C, …, H, W) quantiles at further levels
    solved: Equilibrium | None = None  #: the equilibria of x̂, where the model has such

    @property
    def unfinished(self) -> Tensor:
        """(B,) how many of the samples did not reach the model's tolerance."""
        return (self.sample_status != Status.CONVERGED).sum(0)

    @property
    def bias(self) -> Tensor:
        """(B, C, …, H, W)  mean of the samples minus x̂: the bootstrap's estimate of the bias."""
        return self.mean - self.value

    @property
    def psnr(self) -> Tensor:
        """(B,)  predicted peak signal-to-noise ratio in dB, of images in [0, 1]."""
        return decibels(self.rmse)

    @property
    def parts(self) -> Parts | None:
        """``measured`` and ``invented``, where they were asked for."""
        if self.measured is None or self.invented is None:
            return None
        return Parts(self.measured, self.invented)

    def corrected(self) -> Uncertainty:
        """With the estimated bias taken from x̂: 2 x̂ − mean, and the bounds about it.

        The deviations are then those about their mean, so that std² loses bias². It pays where the
        bias is larger than the error of its estimate; see docs/uncertainty.md. ``widths`` go: they
        are quantiles about the x̂ that was.
        """
        value = self.value - self.bias
        std = (self.std.square() - self.bias.square()).clamp_min(0).sqrt()
        half = (self.upper - self.lower) / 2 * _ratio(std, self.std)
        rmse = std.double().square().flatten(1).mean(1).sqrt().to(self.rmse)
        upper = self.rmse_upper * _ratio(rmse, self.rmse)
        return replace(
            self,
            value=value,
            std=std,
            lower=value - half,
            upper=value + half,
            mean=value,
            rmse=rmse,
            rmse_upper=upper,
            widths=None,
        )

    def scaled(self, factor: float | Tensor) -> Uncertainty:
        """With std, bounds and predicted errors ``factor`` times as wide: see
        :func:`calibrated_on_truths`.

        Raises:
            ValueError: a factor is not a finite number above 0.
        """
        given = torch.as_tensor(factor)
        if not bool(((given > 0) & given.isfinite()).all()):
            raise ValueError(f"factor must be finite and > 0, got {factor}")
        half = factor * (self.upper - self.lower) / 2
        return replace(
            self,
            std=factor * self.std,
            lower=self.value - half,
            upper=self.value + half,
            rmse=factor * self.rmse,
            rmse_upper=factor * self.rmse_upper,
            widths=None if self.widths is None else factor * self.widths,
        )


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    return torch.where(b > 0, a / b.clamp_min(torch.finfo(b.dtype).tiny), 1)


def unfinished_in_words(u: Uncertainty, names: list[str] | None = None) -> str:
    """Which samples of which images did not converge; nothing where all did."""
    count = u.unfinished
    if not bool(count.any()):
        return ""
    shown = []
    for b in torch.nonzero(count).flatten().tolist()[:3]:
        which = torch.nonzero(u.sample_status[:, b]).flatten().tolist()
        numbers = ", ".join(str(k) for k in which[:5]) + (", …" if len(which) > 5 else "")
        name = f"image {b}" if names is None else names[b]
        shown.append(f"{name}: {len(which)} (number {numbers})")
    more = "" if int((count > 0).sum()) <= 3 else f", and {int((count > 0).sum()) - 3} more images"
    lost = int((u.sample_status == Status.NONFINITE).sum())
    left_out = f"; {lost} with values that are not finite are left out" if lost else ""
    return (
        f"{int(count.sum())} of {u.sample_status.numel()} samples did not converge, of "
        f"{'; '.join(shown)}{more}{left_out}"
    )
