"""Where the Jacobian of a denoiser is looked at."""

from __future__ import annotations

import pytest
import torch

from equipoise.assessment.network import _denoiser


@pytest.mark.parametrize("is_known", [True, False])
def test_at_the_solution_the_truth_and_between(is_known):
    x, truth = torch.full((1, 1, 4, 4), 0.2), torch.full((1, 1, 4, 4), 0.6)
    met = []

    def denoise(image):
        met.append(round(float(image.detach().mean()), 4))
        return 0.5 * image

    table = _denoiser(denoise, truth if is_known else None, x)
    assert set(met) == ({0.2, 0.4, 0.6} if is_known else {0.2})
    places = {"solution", "clean", "between"} if is_known else {"solution"}
    assert {key.removeprefix("norm_") for key in table if key.startswith("norm_")} == places
