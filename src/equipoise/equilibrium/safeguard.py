"""When an accelerated step may be trusted, and what is done where it may not.

Two safeguards stand behind every accelerated step, after Zhang, O'Donoghue and Boyd, "Globally
convergent type-I Anderson acceleration", SIAM J. Optim. 2020, who fall back on the plain iteration
too. Accelerated residuals are not monotone even where they converge fast, so neither safeguard
asks for a decrease at every step.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

# 1. Where the residual exceeds the smallest since the last restart by this factor, the step is
#    taken back, the memory cleared, and the next step is Picard's.
GROWTH = 2.0
# 2. Every WINDOW evaluations, acceleration must have gained on Picard: where the residual fell less
#    than it did over the last plain window (PROGRESS, as long as there was none), what was lost is
#    taken back and the next PAUSE windows are plain, twice as many each time. For a contraction
#    that bounds the waste to a fifth. Where the plain iteration makes the residual grow, it ends at
#    once.
WINDOW = 10
PROGRESS = 0.5
PAUSE = 5


class Verdict(NamedTuple):
    """What becomes of an evaluation."""

    back: Tensor | None  #: (B,) bool: taken back, the memory is to be cleared; None: no sample
    plain: Tensor | None  #: (B,) bool: the next step is Picard's; None: for no sample
    trust: Trust  #: after this evaluation


class Trust(NamedTuple):
    """The last accepted evaluation, and what the safeguards remember of each sample."""

    z: Tensor  # (B, N)
    fz: Tensor  # (B, N)
    norm: Tensor  # (B,) ‖f(z) − z‖ there
    smallest: Tensor  # (B,) the smallest norm since the last restart
    used: Tensor  # (B,) bool: the step that led here used the memory
    mark: tuple[Tensor, Tensor, Tensor, Tensor]  # z, fz, norm, smallest where the window began
    gain: Tensor  # (B,) by which factor the residual fell in the last plain window
    rest: Tensor  # (B,) plain windows still to come
    pause: Tensor  # (B,) how many of them the next failure brings
    resting: bool  # some sample has plain windows to come

    @classmethod
    def start(cls, z: Tensor) -> Trust:
        """Before the first evaluation."""
        infinite = z.new_full((len(z),), torch.inf)
        return cls(
            z=z,
            fz=z,
            norm=infinite,
            smallest=infinite,
            used=torch.zeros_like(infinite, dtype=torch.bool),
            mark=(z, z, infinite, infinite),
            gain=torch.full_like(infinite, PROGRESS),
            rest=torch.zeros_like(infinite),
            pause=torch.full_like(infinite, PAUSE),
            resting=False,
        )

    def first(self, z: Tensor, fz: Tensor) -> Trust:
        """After the first evaluation."""
        norm = torch.linalg.vector_norm(fz - z, dim=1)
        return self._replace(z=z, fz=fz, norm=norm, smallest=norm, mark=(z, fz, norm, norm))

    def judge(self, k: int, z: Tensor, fz: Tensor) -> Verdict:
        """The ``k``-th evaluation after the first, fz = f(z)."""
        norm = torch.linalg.vector_norm(fz - z, dim=1)
        grown = self.used & (norm > GROWTH * self.smallest)
        smallest = torch.minimum(self.smallest, norm)
        back = grown if bool(grown.any()) else None
        if back is not None:
            z = torch.where(back[:, None], self.z, z)
            fz = torch.where(back[:, None], self.fz, fz)
            norm = torch.where(back, self.norm, norm)
            smallest = torch.where(back, norm, smallest)
        trust = self._replace(z=z, fz=fz, norm=norm, smallest=smallest)
        if k % WINDOW == 0:
            lost, trust = trust._end_window()
            back = lost if back is None else back | lost
        plain = back
        if trust.resting:
            plain = trust.rest > 0 if back is None else back | (trust.rest > 0)
        used = torch.ones_like(grown) if plain is None else ~plain
        return Verdict(back, plain, trust._replace(used=used))

    def _end_window(self) -> tuple[Tensor, Trust]:
        """The samples (B,) whose window is taken back, and the trust at the start of the next."""
        z0, fz0, norm0, smallest0 = self.mark
        resting = self.rest > 0
        fell = torch.where(resting, self.norm / norm0, self.smallest / smallest0)
        failed = ~resting & ~(fell <= self.gain)
        lost = failed & (self.norm > norm0)
        z = torch.where(lost[:, None], z0, self.z)
        fz = torch.where(lost[:, None], fz0, self.fz)
        norm = torch.where(lost, norm0, self.norm)
        rest = torch.where(failed, self.pause, (self.rest - 1).clamp_min(0))
        rest = torch.where(resting & (fell >= 1), 0, rest)
        smallest = torch.where(failed | resting, norm, self.smallest)
        trust = self._replace(
            z=z,
            fz=fz,
            norm=norm,
            smallest=smallest,
            mark=(z, fz, norm, smallest),
            gain=torch.where(resting, fell, self.gain),
            rest=rest,
            pause=torch.where(failed, 2 * self.pause, self.pause),
            resting=bool((rest > 0).any()),
        )
        return lost, trust
