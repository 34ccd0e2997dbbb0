"""What is minimised: the section ``objective`` of a configuration, a loss a class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import deepinv.physics
import torch
from deepinv.loss import Loss, SureGaussianLoss, SurePoissonLoss, TVLoss
from deepinv.physics import MRI, MultiCoilMRI
from pydantic import BeforeValidator, Field, NonNegativeFloat, field_validator
from torch import Tensor

from ..errors import UserError
from ..imaging.framed import Framed
from ..imaging.group_settings import GroupChoice, RotationsSettings
from ..imaging.scaled import unscaled
from ..imaging.selection import of_the_first
from ..imaging.splitting import may_be_left_out, split
from ..settings import Settings
from .borrowed import borrowed
from .losses import (
    AS_THE_MODEL,
    DEFAULT_ACCURACY,
    Accuracy,
    Equivariance,
    JacobianPenalty,
    MeasurementConsistency,
    MultiOperator,
    Recorrupted,
    Splitting,
    StopGradient,
    Supervised,
    Weighted,
)

if TYPE_CHECKING:
    from ..data.scan import Scan


def weight_alone(value: Any) -> Any:
    """``0.1`` is short for ``{weight: 0.1}``."""
    return {"weight": value} if isinstance(value, (int, float, str)) else value


#: For every loss: a bare number is its weight.
BARE_WEIGHT = BeforeValidator(weight_alone)

FLOOR = Field(
    1e-3,
    ge=0,
    description="δ: the misfit is counted in the image, down to this variance; 0: plain misfit",
)
RENOISE = Field(True, description="add noise to the second measurement")
#: With fewer views than this share of the image's side, a step differentiates three images; with
#: two it then ends 0.25 to 0.36 dB behind (10 views of 64², 20 of 128²: docs/choosing.md).
FEW_VIEWS = 0.2
#: The weights of consistency and of equivariance, where splitting does not say enough by itself.
CONSISTENCY, ALPHA = 0.1, 0.2
#: It does where no two neighbouring views lie further apart (degrees): training then ends about
#: 0.2 dB ahead without the other two, in half of the time (docs/choosing.md).
NARROW_GAP = 4.5


def check_square(key: str, group: Any, size: tuple[int, int]) -> None:
    """
    Raises:
        UserError: the group does not act on images of this size.
    """
    if group.kind == "quarter_turns" and size[0] != size[1]:
        raise UserError(
            f"{key}: quarter_turns need square images, and data.size is [{size[0]}, {size[1]}]; "
            "choose reflections, shifts or rotations (what leaves the image comes in on the other "
            "side), or a square data.size"
        )


class ConsistencySettings(Settings):
    """|A x̂ − y|²."""

    weight: Literal["auto"] | NonNegativeFloat = Field(
        "auto",
        description="weight of the measurement consistency. auto: 0.1, or 0 where "
        "objective.equivariance is left out, too",
    )
    floor: float = FLOOR

    def make(self, attenuation: float | None = None) -> MeasurementConsistency:
        assert self.weight != "auto"  # settled by what measures
        return MeasurementConsistency(self.weight, self.floor, attenuation)


def _rarity(physics: Any) -> Tensor:
    """By how much each point of k-space counts where it is left out, of a shape that broadcasts to
    that of a measurement: one over the share of the samples that may leave it out, with a mean of 1
    (Millard and Chiew, IEEE Trans. Computational Imaging 9, 2023).

    Raises:
        UserError: there are no masks, all samples share one, or they are of different sizes.
    """
    inner = unscaled(physics)
    mask = getattr(inner, "mask", None)
    why = ""
    if isinstance(inner, Framed):
        why = "images are of different sizes; set data.size to one for all"
    elif not isinstance(inner, (MRI, MultiCoilMRI)) or mask is None:
        why = "this operator has no mask of k-space"
    elif len(mask) == 1:
        why = (
            "there is only one here (physics.masks=each draws one for each image that is thinned "
            "out; what was acquired undersampled keeps its own)"
        )
    if why:
        raise UserError(
            f"objective.splitting.weighting=density needs masks that differ, and {why}, or set it "
            "to equal"
        )
    free = may_be_left_out(physics)
    share = free.mean(0)
    weights = torch.where(share > 0, 1 / share.clamp_min(1e-12), 0.0)
    weights = weights * (free.sum() / (free * weights).sum())
    return weights[:, None] if isinstance(inner, MultiCoilMRI) else weights


class SplittingSettings(Settings):
    """Some measurements are predicted from the others."""

    weight: float = Field(1.0, ge=0, description="weight of the measurement-splitting term")
    parts: int = Field(5, ge=2, description="into how many parts; one is left out and predicted")
    floor: float = FLOOR
    group: GroupChoice | None = Field(
        None,
        description="equivariant splitting: the group by which each image lies otherwise for the "
        "denoiser; none: plain splitting",
    )
    left_out: Literal["interleaved", "random"] = Field(
        "interleaved",
        description="every n-th view or line, or as many at random (SSDU): in computed tomography "
        "one of 20 draws for all, elsewhere for each sample its own",
    )
    shared: Literal["auto"] | bool = Field(
        "auto",
        description="consistency is asked of the image that predicts, not of that of all "
        "measurements (not with a group); with objective.equivariance.stop_gradient=image the "
        "latter needs no adjoint, and a step takes 0.7 to 0.85 of the time. auto: where "
        "that saves an adjoint, unless fewer views than a fifth of the image's side measure",
    )
    weighting: Literal["equal", "density"] = Field(
        "equal",
        description="how left-out points of k-space count: alike, or by one over the share of the "
        "masks that may leave them out, for samples with masks of their own",
    )

    @field_validator("group", mode="before")
    @classmethod
    def _none_in_words(cls, value: Any) -> Any:
        return None if value == "none" else value

    def make(
        self,
        scan: Scan,
        y: Tensor,
        accuracy: Accuracy,
        shares_an_image: bool,
        attenuation: float | None = None,
    ) -> Splitting:
        """
        Args:
            scan: what measured.
            y: one measurement or more, (B, …).
            accuracy: of the equilibrium that predicts.
            shares_an_image: the image is shared, if nothing else was asked for.
            attenuation: see :class:`MeasurementConsistency`.

        Raises:
            UserError: the measurements cannot be split, the group does not act on such images, or
                the image is to be shared, and there is a group.
        """
        shared = self.shared
        if shared == "auto":
            shared = shares_an_image and self.group is None
        if shared and self.group is not None:
            raise UserError(
                "objective.splitting.shared=true: with objective.splitting.group the image that "
                "predicts is that of another model; set one of them to its default (auto, none)"
            )
        if self.group is not None:
            check_square("objective.splitting.group", self.group, scan.size)
        try:
            split(of_the_first(scan.physics), y[:1], self.parts, 0)
        except (ValueError, TypeError) as error:
            raise UserError(
                f"objective.splitting.parts={self.parts}: {error}, or set objective.splitting=0"
            ) from error
        return Splitting(
            self.parts,
            self.weight,
            self.floor,
            accuracy,
            attenuation,
            group=None if self.group is None else self.group.make(),
            at_random=self.left_out == "random",
            weights=None if self.weighting == "equal" else _rarity(scan.physics),
            shared=shared,
        )


class EquivarianceSettings(Settings):
    """The image is moved, measured and reconstructed again."""

    weight: Literal["auto"] | NonNegativeFloat = Field(
        "auto",
        description="α, the weight of the equivariance term. auto: 0.2, or 0 where views lie so "
        "close (4.5° or less) that those which splitting leaves out say enough",
    )
    group: GroupChoice = Field(
        default_factory=lambda: RotationsSettings(), description="the group that moves images"
    )
    draws: int = Field(
        1, ge=1, le=1000, description="elements of the group for each sample and step"
    )
    renoise: bool = RENOISE
    stop_gradient: Literal["auto"] | StopGradient = Field(
        "auto",
        description="true: treat the moved image as a constant target; image: as what is measured "
        "again, too; false: neither, as in the first paper on EI. auto: true with fewer views than "
        "a fifth of the image's side, image elsewhere",
    )

    def make(self, accuracy: Accuracy, size: tuple[int, int], is_constant: bool) -> Equivariance:
        """
        Args:
            accuracy: of the second solve.
            size: height and width of the images.
            is_constant: what is measured again is a constant, if nothing else was asked for.

        Raises:
            UserError: the group does not act on images of this size.
        """
        assert self.weight != "auto"  # settled by what measures
        check_square("objective.equivariance.group", self.group, size)
        stop_gradient = self.stop_gradient
        if stop_gradient == "auto":
            stop_gradient = "image" if is_constant else True
        return Equivariance(
            self.group.make(self.draws),
            self.weight,
            self.renoise,
            stop_gradient,
            accuracy=accuracy,
        )


class OperatorsSettings(Settings):
    """The image is measured by another sample's operator, and reconstructed again."""

    weight: float = Field(
        0,
        ge=0,
        description="weight of multi-operator imaging, where samples have masks of their own",
    )
    renoise: bool = RENOISE

    def make(self, accuracy: Accuracy) -> MultiOperator:
        return MultiOperator(self.weight, noise=self.renoise, accuracy=accuracy)


class SureSettings(Settings):
    """Stein's unbiased risk estimate."""

    weight: float = Field(
        0, ge=0, description="weight of Stein's unbiased risk estimate, for the physics' noise"
    )

    def make(self, scan: Scan) -> Weighted:
        """
        Raises:
            UserError: measurements have noise of different strength.
        """
        noise: Any = getattr(scan.physics, "noise_model", None)
        if isinstance(noise, deepinv.physics.PoissonNoise):
            return Weighted(SurePoissonLoss(float(noise.gain)), self.weight)
        return Weighted(SureGaussianLoss(_one_level("objective.sure", scan)), self.weight)


class R2RSettings(Settings):
    """Recorrupted to recorrupted."""

    weight: float = Field(
        0, ge=0, description="weight of recorrupted-to-recorrupted, for Gaussian noise"
    )

    def make(self, scan: Scan) -> Recorrupted:
        """
        Raises:
            UserError: the noise is not Gaussian, or measurements have noise of different strength.
        """
        if not all(isinstance(m, deepinv.physics.GaussianNoise) for m in _noise_models(scan)):
            raise UserError(
                "objective.r2r needs Gaussian noise; set it to 0, or leave out physics.photons"
            )
        return Recorrupted(_one_level("objective.r2r", scan), self.weight)


#: By so much the noise of measurements may differ where a loss is told one level for all.
ONE_LEVEL = 1.05


def _noise_models(scan: Scan) -> list[Any]:
    """That of the operator; of measurements of several sizes, those of each size."""
    operators = scan.physics.parts if isinstance(scan.physics, Framed) else [scan.physics]
    return [getattr(operator, "noise_model", None) for operator in operators]


def _one_level(key: str, scan: Scan) -> float:
    """The standard deviation of the noise in all measurements of a scan.

    Raises:
        UserError: it differs from one to the next.
    """
    sigmas = [torch.as_tensor(getattr(model, "sigma", 0.0)) for model in _noise_models(scan)]
    levels = torch.cat([sigma.double().flatten() for sigma in sigmas])
    if float(levels.max()) > ONE_LEVEL * float(levels.min()):
        raise UserError(
            f"{key} needs one noise level for all measurements, and these have {levels.min():.2e} "
            f"to {levels.max():.2e}; set it to 0, or train on those of one scanner and protocol"
        )
    return float(levels.square().mean().sqrt())


class VariationSettings(Settings):
    """Total variation."""

    weight: float = Field(0, ge=0, description="weight of the total variation of the image")

    def make(self) -> TVLoss:
        return TVLoss(self.weight)


class SupervisedSettings(Settings):
    """The squared error to the true images."""

    weight: float = Field(
        0,
        ge=0,
        description="weight of the squared error to the true images, as a ceiling to compare with",
    )

    def make(self) -> Supervised:
        return Supervised(self.weight)


class ContractionSettings(Settings):
    """The penalty on the Jacobian at the equilibrium."""

    weight: float = Field(0.01, ge=0, description="weight of the Jacobian penalty")
    bound: float = Field(0.97, gt=0, lt=1, description="gain of the adjoint Jacobian that is free")
    along: Literal["residual", "memory"] = Field(
        "residual",
        description="where the gain is looked at: along what is left of each sample's solve, or in "
        "one direction for all that is remembered from step to step, as release 0.1 did",
    )

    def make(self) -> JacobianPenalty:
        return JacobianPenalty(self.weight, self.bound, self.along)


class ObjectiveSettings(Settings):
    """What is minimised: the sum of these losses; a weight of 0 leaves one out, and a bare number
    is a weight."""

    exact: bool = Field(
        True,
        description="solve what a loss compares until its value is within 1 % and its gradient "
        "within 3 % (float64; float32 as far as it resolves them); false: to model.rtol, in about "
        "0.6 of the time",
    )
    counts: bool = Field(
        False,
        description="the noise is that of counted photons (computed tomography): consistency and "
        "splitting weigh each line integral by the photons that came through",
    )
    consistency: Annotated[ConsistencySettings, BARE_WEIGHT] = Field(
        default_factory=lambda: ConsistencySettings(), description="measurement consistency"
    )
    splitting: Annotated[SplittingSettings, BARE_WEIGHT] = Field(
        default_factory=lambda: SplittingSettings(), description="measurement splitting (SSDU)"
    )
    equivariance: Annotated[EquivarianceSettings, BARE_WEIGHT] = Field(
        default_factory=lambda: EquivarianceSettings(), description="equivariant imaging"
    )
    operators: Annotated[OperatorsSettings, BARE_WEIGHT] = Field(
        default_factory=lambda: OperatorsSettings(), description="multi-operator imaging"
    )
    sure: Annotated[SureSettings, BARE_WEIGHT] = Field(
        default_factory=lambda: SureSettings(), description="Stein's unbiased risk estimate"
    )
    r2r: Annotated[R2RSettings, BARE_WEIGHT] = Field(
        default_factory=lambda: R2RSettings(), description="recorrupted to recorrupted"
    )
    supervised: Annotated[SupervisedSettings, BARE_WEIGHT] = Field(
        default_factory=lambda: SupervisedSettings(), description="squared error to the truth"
    )
    variation: Annotated[VariationSettings, BARE_WEIGHT] = Field(
        default_factory=lambda: VariationSettings(), description="total variation"
    )
    contraction: Annotated[ContractionSettings, BARE_WEIGHT] = Field(
        default_factory=lambda: ContractionSettings(), description="Jacobian penalty"
    )
    deepinv: dict[str, NonNegativeFloat | dict[str, Any]] = Field(
        {},
        description="losses of deepinv by the names of their classes: a weight, or {weight: 1, "
        "argument: value, …}, such as {SureGaussianLoss: {unsure: true}}",
    )

    def settled(self, scan: Scan) -> ObjectiveSettings:
        """The same with numbers for the weights that follow what measures."""
        consistency, equivariance = self.consistency, self.equivariance
        splitting_suffices = self.splitting.weight > 0 and _has_close_views(scan)
        if equivariance.weight == "auto":
            weight = 0.0 if splitting_suffices else ALPHA
            equivariance = equivariance.model_copy(update={"weight": weight})
        if consistency.weight == "auto":
            weight = 0.0 if splitting_suffices and not equivariance.weight else CONSISTENCY
            consistency = consistency.model_copy(update={"weight": weight})
        return self.model_copy(update={"consistency": consistency, "equivariance": equivariance})

    def explain(self, scan: Scan) -> str:
        """Which losses were left out for this scan, in words; empty where none was."""
        settled = self.settled(scan)
        usual = {"consistency": CONSISTENCY, "equivariance": ALPHA}
        left_out = [
            name
            for name in usual
            if getattr(self, name).weight == "auto" and not getattr(settled, name).weight
        ]
        if not left_out:
            return ""
        options = " ".join(f"objective.{name}={usual[name]:g}" for name in left_out)
        return (
            f"splitting without {' and '.join(left_out)}: views lie {scan.widest_gap:.3g}° apart "
            f"at most, so that those left out say enough ({options} adds them all the same)"
        )

    def make(self, scan: Scan, y: Tensor) -> dict[str, Loss]:
        """The losses by name, in the order in which they are evaluated.

        Args:
            scan: what measured, with its noise model.
            y: one measurement or more, (B, …).

        Raises:
            UserError: nothing is left, or a loss does not fit what measured.
        """
        if "auto" in (self.consistency.weight, self.equivariance.weight):
            return self.settled(scan).make(scan, y)
        accuracy = DEFAULT_ACCURACY if self.exact else AS_THE_MODEL
        attenuation = scan.attenuation if self.counts else None
        shares_an_image = self._shares_an_image(scan)
        losses: dict[str, Loss] = {}
        if self.consistency.weight:
            losses["consistency"] = self.consistency.make(attenuation)
        if self.splitting.weight:
            losses["splitting"] = self.splitting.make(
                scan, y, accuracy, shares_an_image, attenuation
            )
        if self.equivariance.weight:
            losses["equivariance"] = self.equivariance.make(accuracy, scan.size, shares_an_image)
        if self.operators.weight:
            losses["operators"] = self.operators.make(accuracy)
        if self.sure.weight:
            losses["sure"] = self.sure.make(scan)
        if self.r2r.weight:
            losses["r2r"] = self.r2r.make(scan)
        if self.supervised.weight:
            losses["supervised"] = self.supervised.make()
        if self.variation.weight:
            losses["variation"] = self.variation.make()
        for name, given in self.deepinv.items():
            loss = borrowed(name, given, scan)
            if loss.weight:
                losses[name] = loss
        if self.contraction.weight:
            losses["contraction"] = self.contraction.make()
        if not losses:
            raise UserError(
                "objective: all weights are 0, so there is nothing to learn from; raise "
                "objective.consistency"
            )
        return losses

    def _shares_an_image(self, scan: Scan) -> bool:
        """Whether consistency and the penalty look at splitting's image and moved images are
        constants, if nothing else is asked for: where that saves an adjoint and, as measured, costs
        neither quality nor equilibria."""
        if not self.equivariance.weight:
            return _has_close_views(scan)
        views = scan.views
        has_few_views = views is not None and views < FEW_VIEWS * max(scan.size)
        return self.equivariance.stop_gradient in ("auto", "image") and not has_few_views


def _has_close_views(scan: Scan) -> bool:
    gap = scan.widest_gap
    return gap is not None and gap <= NARROW_GAP + 1e-9
