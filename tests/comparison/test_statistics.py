"""Intervals that hold the truth as often as they say."""

from __future__ import annotations

import torch

from equipoise.comparison.statistics import bootstrap


class TestBootstrap:
    def test_interval_covers(self):
        """Of 200 experiments with a true difference of 0.3, about 95 % hold it."""
        inside = 0
        for k in range(200):
            rng = torch.Generator().manual_seed(k)
            low, high = bootstrap(
                0.3 + torch.randn(1, 30, generator=rng), [str(i) for i in range(30)], draws=300
            )[1:]
            inside += low <= 0.3 <= high
        assert 176 <= inside <= 198

    def test_few_patients_and_seeds(self):
        """Ten patients and three seeds, whichever of the two varies more: not the 80 to 90 % of
        plain draws."""
        for of_seeds, of_patients in ((0.02, 0.2), (0.4, 0.2)):
            inside = 0
            for k in range(200):
                rng = torch.Generator().manual_seed(k)
                values = (
                    0.3
                    + of_seeds * torch.randn(3, 1, generator=rng)
                    + of_patients * torch.randn(1, 10, generator=rng)
                )
                low, high = bootstrap(values, [str(i) for i in range(10)], draws=200)[1:]
                inside += low <= 0.3 <= high
            assert 180 <= inside <= 199

    def test_one_volume_is_resampled_by_its_images(self):
        values = torch.randn(2, 20, generator=torch.Generator().manual_seed(1))
        assert bootstrap(values, ["head"] * 20) == bootstrap(values, [str(i) for i in range(20)])

    def test_images_of_a_patient_count_as_one(self):
        rng = torch.Generator().manual_seed(0)
        each = torch.randn(1, 10, generator=rng)
        values = each.repeat_interleave(5, 1)
        wide = bootstrap(values, [str(i // 5) for i in range(50)])
        narrow = bootstrap(values, [str(i) for i in range(50)])
        assert wide[0] == narrow[0]
        assert wide[2] - wide[1] > 1.8 * (narrow[2] - narrow[1])
