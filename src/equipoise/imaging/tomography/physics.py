"""What all tomography shares, in deepinv's contract: A, A_adjoint, A_dagger and prox_l2."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

import torch
from deepinv.physics import LinearPhysics, NoiseModel
from torch import Tensor

from ..linear import (
    CGResult,
    Operator,
    at_least_single,
    conjugate_gradients,
    full_precision,
    least_squares,
    norm,
    per_sample,
    proximal_l2,
    variant,
)
from .geometry import Geometry
from .projector import system_matrix

#: Up to here Q takes at most 64 MiB in float32, and costs less than conjugate gradients.
DIRECT_SIZE = 4096


class Tomography(LinearPhysics):
    """What parallel and fan beam share: x (B, 1, H, W) → y (B, 1, views, detectors).

    All of it is computed in float32 at least, whatever ``torch.autocast`` says.
    """

    def __init__(
        self,
        geometry: Geometry,
        pixel: float,
        normalize: bool,
        *,
        noise_model: NoiseModel | None = None,
        sensor_model: Callable[[Tensor], Tensor] | None = None,
        max_iter: int | None = None,
        tol: float | None = None,
        solver: str = "CG",
        implicit_backward_solver: bool = True,
        device: torch.device | str = "cpu",
    ):
        if not (math.isfinite(pixel) and pixel > 0):
            raise ValueError(f"pixel must be a positive length, got {pixel}")
        given = {} if sensor_model is None else {"sensor_model": sensor_model}
        super().__init__(
            img_size=(1, geometry.height, geometry.width),
            noise_model=noise_model,
            implicit_backward_solver=implicit_backward_solver,
            device=device,
            **given,
        )
        # None: what suits the method, see A_dagger and prox_l2.
        self.set_ls_solver(solver)
        self.max_iter, self.tol = max_iter, tol
        self.geometry = geometry
        self.matrix = system_matrix(geometry)
        self.pixel = float(pixel)
        self.scale = self.pixel  #: A = scale · (matrix in pixels)
        self.gain = 1.0  #: what normalize() has multiplied A by
        #: (views, detectors) of 0 and 1, which rays were measured; None: all. See masked().
        self.register_buffer("seen", None)
        if normalize:
            self.normalize()

    @property
    def angles(self) -> Tensor:
        """(views,) degrees."""
        return torch.tensor(self.geometry.angles)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return 1, self.geometry.height, self.geometry.width

    @property
    def measurement_shape(self) -> tuple[int, int, int]:
        return 1, len(self.geometry.angles), self.geometry.detectors

    def A(self, x: Tensor, **kwargs: Any) -> Tensor:
        """Line integrals of x (B, 1, H, W): (B, 1, views, detectors), in units of x times the unit
        of ``pixel``. ``kwargs`` are for other operators, as in deepinv."""
        self.update_parameters(**kwargs)
        if x.ndim != 4 or tuple(x.shape[1:]) != self.image_shape:
            wanted = ", ".join(map(str, self.image_shape))
            raise ValueError(f"x must have shape (B, {wanted}), got {tuple(x.shape)}")
        y = self.scale * self.matrix.product(x.flatten(1), False)
        return self._seen(y.unflatten(1, self.measurement_shape))

    def A_adjoint(self, y: Tensor, **kwargs: Any) -> Tensor:
        """Aᵀ: the exact transpose. (B, 1, views, detectors) → (B, 1, H, W)."""
        self.update_parameters(**kwargs)
        self._check_measurements(y)
        x = self.matrix.product(self._seen(y).flatten(1), True)
        return self.scale * x.unflatten(1, self.image_shape)

    def _check_measurements(self, y: Tensor) -> None:
        """
        Raises:
            ValueError: they are not (B, 1, views, detectors).
        """
        if y.ndim != 4 or tuple(y.shape[1:]) != self.measurement_shape:
            wanted = ", ".join(map(str, self.measurement_shape))
            raise ValueError(
                f"y must have shape (B, {wanted}) for this geometry (1, views, detectors), "
                f"got {tuple(y.shape)}"
            )

    def _seen(self, y: Tensor) -> Tensor:
        """Measurements without those that were not made."""
        return y if self.seen is None else y * self.seen.to(y)

    def update_parameters(self, **kwargs: Any) -> None:
        """deepinv's way to change an operator. Here nothing can be: the rays are a matrix.

        Raises:
            ValueError: one of the geometry's own parameters is given; what belongs to other
                operators is ignored, as deepinv has it.
        """
        own = {"pixel", "pitch", *(field.name for field in fields(self.geometry))}
        for name in own & kwargs.keys():
            if kwargs[name] is not None:
                raise ValueError(
                    f"{name} of a {type(self).__name__} cannot be changed; make another one with it"
                )

    def __getstate__(self) -> dict[str, Any]:
        """deepinv's defaults are lambdas, which do not pickle: they are left out here and made anew
        below."""
        state = _without_defaults(self.__dict__)
        state["_modules"] = dict(self._modules)
        noise = state["_modules"].get("noise_model")
        if noise is not None:
            noise = copy.copy(noise)
            noise.__dict__ = _without_defaults(noise.__dict__)
            state["_modules"]["noise_model"] = noise
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        fresh = LinearPhysics()
        _restore_defaults(self, fresh)
        noise = self._modules.get("noise_model")
        if noise is not None:
            _restore_defaults(noise, fresh.noise_model)

    def norm(self) -> float:
        """The largest singular value of A (not its square)."""
        image = torch.zeros(1, *self.image_shape, device=self._device_holder.device)
        return norm(self.A, self.A_adjoint, image)

    def normalize(self) -> Tomography:
        """Rescales A so that ‖A‖ = 1, in place; measurements made elsewhere must be multiplied by
        ``gain``."""
        size = self.norm()
        if size == 0:
            raise ValueError(
                "no ray meets the image: check detectors, offset (in detectors) and the distances "
                "(in pixels)"
            )
        factor = 1 / size
        self.scale, self.gain = self.scale * factor, self.gain * factor
        return self

    def views(self, index: Sequence[int]) -> Tomography:
        """The same scan with the views ``index`` alone (and the same scaling): its y is
        ``y[:, :, index]``.

        Raises:
            IndexError: there is no such view.
        """
        part: Tomography = variant(self)
        part.matrix = self.matrix.views(index)
        part.geometry = part.matrix.geometry
        if self.seen is not None:
            part.seen = self.seen[list(index)]
        return part

    def masked(self, seen: Tensor) -> Tomography:
        """The same scan (with the same scaling) without some of its rays, such as those of dead
        detectors: they measure zero, and nothing is asked of them.

        Args:
            seen: (views, detectors) of 0 and 1; 1 where a ray was measured. What this scan lacks
                already, the other lacks too.

        Raises:
            ValueError: it has another shape or other values.
        """
        shape = self.measurement_shape[1:]
        seen = torch.as_tensor(seen)
        if tuple(seen.shape) != shape:
            raise ValueError(f"seen must have shape {shape}, got {tuple(seen.shape)}")
        if not bool(((seen == 0) | (seen == 1)).all()):
            raise ValueError("seen must be 1 where a ray was measured, and 0 elsewhere")
        part: Tomography = variant(self)
        part.seen = self._seen(seen.to(torch.float32))
        return part

    def filled(self, y: Tensor) -> Tensor:
        """Measurements (B, 1, views, detectors) with those that were not made interpolated along
        the detectors of their view: for filtered back-projection, which knows no gaps."""
        if self.seen is None:
            return y
        place = torch.arange(y.shape[-1], device=y.device).expand_as(self.seen)
        is_seen = self.seen.to(y.device) > 0
        left = torch.where(is_seen, place, -1).cummax(-1).values
        right = torch.where(is_seen, place, y.shape[-1]).flip(-1).cummin(-1).values.flip(-1)
        beyond = right == y.shape[-1]
        low = torch.where(left < 0, right.clamp_max(y.shape[-1] - 1), left)
        high = torch.where(beyond, low, right)
        share = ((place - low) / (high - low).clamp_min(1)).to(y)
        at_low = y.gather(-1, low.expand_as(y))
        return at_low + share * (y.gather(-1, high.expand_as(y)) - at_low)

    def A_dagger(
        self,
        y: Tensor,
        solver: str | None = None,
        max_iter: int | None = None,
        tol: float | None = None,
        verbose: bool = False,
        **kwargs: Any,
    ) -> Tensor:
        """The least-squares solution of smallest norm, differentiable in y.

        By conjugate gradients on AᵀA x = Aᵀy from zero, to the relative residual ``tol`` or
        ``max_iter`` iterations: stopping early regularises.

        Args:
            y: (B, 1, views, detectors).
            solver: "CG", or one of deepinv's ("lsqr", "minres", "BiCGStab"). Default: what the
                operator was made with.
            max_iter: default: what the operator was made with, or else 50.
            tol: default: what the operator was made with, or else 1e-4.
            verbose: print the account of the solve.
        """
        self.update_parameters(**kwargs)
        tol = _first(tol, self.tol, 1e-4)
        max_iter = _first(max_iter, self.max_iter, 50)
        solver = solver or self.solver
        if solver != "CG":
            options = {"solver": solver, "max_iter": max_iter, "tol": tol, "verbose": verbose}
            return LinearPhysics.A_dagger(variant(self), y, **options)  # it stores what it is told
        with full_precision(y):
            x: Tensor = _PseudoInverse.apply(
                at_least_single(y), self.A, self.A_adjoint, tol, max_iter, verbose
            )
        return x

    def least_squares(self, y: Tensor, tol: float = 1e-4, max_iter: int = 50) -> CGResult:
        """:meth:`A_dagger` with its account: value, iterations, residual (B,)."""
        return least_squares(self.A, self.A_adjoint, y, tol, max_iter)

    @property
    def has_closed_prox(self) -> bool:
        """Whether :meth:`prox_l2` uses eigenvectors: there are at most ``DIRECT_SIZE`` rays, or at
        most as many pixels; and all rays were measured."""
        return self.seen is None and self.matrix.smaller_side <= DIRECT_SIZE

    def prox_l2(
        self,
        z: Tensor | float | None,
        y: Tensor,
        gamma: Tensor | float,
        solver: str | None = None,
        max_iter: int | None = None,
        tol: float | None = None,
        verbose: bool = False,
        **kwargs: Any,
    ) -> Tensor:
        """argmin_x γ/2 ‖A x − y‖² + ½‖x − z‖², with exact derivatives in z, y and γ.

        x = z + (AᵀA + 1/γ)⁻¹ Aᵀ(y − A z) = z + Aᵀ(AAᵀ + 1/γ)⁻¹(y − A z). The inverse is applied
        through the eigenvectors of the smaller of AᵀA and AAᵀ, found once per geometry, if it has
        at most ``DIRECT_SIZE`` rows: two dense products instead of tens of projections. Beyond
        that, by conjugate gradients, sample by sample.

        Args:
            z: (B, 1, H, W), or one number for all pixels; none is 0.
            y: (B, 1, views, detectors).
            gamma: γ > 0, one number or one for each sample (B,), (B, 1, 1, 1); or an image of them.
            solver: as for :meth:`A_dagger`.
            max_iter: default: what the operator was made with, or else 200.
            tol: relative residual of conjugate gradients; default: what the operator was made
                with, or else 1e-6.
            verbose: print the account of the solve.

        Raises:
            ValueError: γ is not positive.
        """
        self.update_parameters(**kwargs)
        _check_positive(gamma)
        tol = _first(tol, self.tol, 1e-6)
        max_iter = _first(max_iter, self.max_iter, 200)
        solver = solver or self.solver
        with full_precision(y):
            y = at_least_single(y)
            z = self._image(z, y)
            if solver != "CG":
                options = {"solver": solver, "max_iter": max_iter, "tol": tol, "verbose": verbose}
                return LinearPhysics.prox_l2(variant(self), z, y, gamma, **options)
            strength = 1 / per_sample(gamma, z)
            if verbose:
                print(_line(self.prox_account(z, y, gamma, tol, max_iter)))
            if self.has_closed_prox and _is_one_a_sample(strength):
                return self._closed_prox(z, y, strength)
            return proximal_l2(self.A, self.A_adjoint, z, y, strength, tol, max_iter)

    def _image(self, z: Tensor | float | None, y: Tensor) -> Tensor:
        if isinstance(z, Tensor) and z.ndim:
            return at_least_single(z)
        zero = y.new_zeros(len(y), *self.image_shape)
        return zero if z is None else zero + z

    def _closed_prox(self, z: Tensor, y: Tensor, strength: Tensor | float) -> Tensor:
        spectrum = self.matrix.spectrum(z.dtype, z.device)
        if isinstance(strength, Tensor):
            strength = strength.reshape(-1, 1)
        r = y - self.A(z)
        if self.matrix.fewer_pixels:
            b = self.A_adjoint(r).flatten(1)
            return z + spectrum.solve(b, self.scale**2, strength).reshape(z.shape)
        u = spectrum.solve(r.flatten(1), self.scale**2, strength)
        return z + self.A_adjoint(u.reshape(y.shape))

    def prox_account(
        self,
        z: Tensor,
        y: Tensor,
        gamma: Tensor | float,
        tol: float = 1e-6,
        max_iter: int = 200,
    ) -> CGResult:
        """:meth:`prox_l2` with its account and without its derivative: value, iterations (0 where
        the inverse is applied directly), relative residual (B,) of
        (AᵀA + 1/γ)(x − z) = Aᵀ(y − A z)."""
        strength = 1 / per_sample(gamma, z)

        def M(u: Tensor) -> Tensor:
            return self.A_adjoint(self.A(u)) + strength * u

        with torch.no_grad(), full_precision(y):
            b = self.A_adjoint(y - self.A(z))
            if self.has_closed_prox and _is_one_a_sample(strength):
                step, iterations = self._closed_prox(z, y, strength) - z, 0
            else:
                step, iterations, _ = conjugate_gradients(M, b, tol=tol, max_iter=max_iter)
            left = (M(step) - b).flatten(1).norm(dim=1)
            size = b.flatten(1).norm(dim=1).clamp_min(torch.finfo(b.dtype).tiny)
            return CGResult(z + step, iterations, left / size)


class _PseudoInverse(torch.autograd.Function):
    """A⁺ y by conjugate gradients on AᵀA x = Aᵀy, for a constant A.

    Its transpose is (Aᵀ)⁺, the same with A and Aᵀ in each other's place. (Backward through the
    inverse of AᵀA instead would solve for gradients that are not in the range of Aᵀ, where
    conjugate gradients go astray.)
    """

    @staticmethod
    def forward(
        y: Tensor, A: Operator, At: Operator, tol: float, max_iter: int, verbose: bool
    ) -> Tensor:
        account = least_squares(A, At, y, tol, max_iter)
        if verbose:
            print(_line(account))
        return account.value

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, *ctx.how = inputs

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        A, At, *limits = ctx.how
        return _PseudoInverse.apply(g, At, A, *limits), None, None, None, None, None

    @staticmethod
    def jvp(ctx: Any, dy: Tensor, *_: Any) -> Tensor:
        return _PseudoInverse.apply(dy, *ctx.how)


def _check_positive(gamma: Tensor | float) -> None:
    """
    Raises:
        ValueError: γ is not; on a device it is not looked at, which would wait for it.
    """
    if isinstance(gamma, Tensor) and gamma.device.type != "cpu":
        return
    if not bool((torch.as_tensor(gamma) > 0).all()):
        least = float(torch.as_tensor(gamma).min())
        raise ValueError(
            f"gamma must be positive, got {least:g}: it is what the measurements weigh beside z"
        )


def _first(*values: Any) -> Any:
    """The first that is not None."""
    return next(value for value in values if value is not None)


def _line(account: CGResult) -> str:
    largest = float(account.residual.max())
    if account.iterations == 0:
        return f"solved through eigenvectors: relative residual {largest:.1e}"
    return f"conjugate gradients: {account.iterations} iterations, relative residual {largest:.1e}"


def _is_one_a_sample(value: Tensor | float) -> bool:
    return not isinstance(value, Tensor) or value.ndim == 0 or value[0].numel() == 1


def _is_default_of_deepinv(value: Any) -> bool:
    return getattr(value, "__name__", "") == "<lambda>" and value.__module__.startswith("deepinv.")


def _without_defaults(attributes: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in attributes.items() if not _is_default_of_deepinv(v)}


def _restore_defaults(module: torch.nn.Module, fresh: torch.nn.Module) -> None:
    for name, value in fresh.__dict__.items():
        if name not in module.__dict__ and _is_default_of_deepinv(value):
            module.__dict__[name] = value
