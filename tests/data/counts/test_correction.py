"""Line integrals of counts: the right values, and what measured nothing is counted."""

from __future__ import annotations

import numpy as np
import pytest
from counting import DARK, beam, counts_of, disc

from equipoise.data.counts import BadCounts, line_integrals
from equipoise.data.counts.correction import _has_beam, bins, filled
from equipoise.data.counts.looks import look_like_counts, look_like_line_integrals


def test_the_logarithm_of_what_gets_through():
    found = line_integrals(counts_of(disc(), beam()), beam(), DARK)
    assert np.allclose(found.values, disc(), atol=1e-5)
    assert not found.losses
    assert found.measured.all()


def test_without_a_dark_current_the_dark_is_nought():
    found = line_integrals(counts_of(disc(), beam(), 0), beam())
    assert np.allclose(found.values, disc(), atol=1e-5)


def test_whole_numbers_do_not_wrap_around():
    """uint16 counts below the dark current would become 65,000."""
    counts = np.rint(counts_of(disc(), beam())).astype(np.uint16)
    counts[3, 30] = 50
    found = line_integrals(counts, beam().astype(np.uint16), np.uint16(100))
    assert found.losses.lost == 1
    assert np.abs(found.values - disc()).max() < 0.02


def test_photons_are_added_up_before_the_logarithm():
    integrals, white = disc(), beam()
    found = line_integrals(counts_of(integrals, white), white, DARK, bin=4)
    light = ((white - DARK) * np.exp(-integrals)).reshape(30, 15, 4).sum(-1)
    right = -np.log(light / (white - DARK).reshape(15, 4).sum(-1))
    assert np.allclose(found.values, right, atol=1e-5)


@pytest.mark.parametrize(("detectors", "bin", "first", "count"), [(640, 5, 0, 128), (61, 4, 0, 15)])
def test_what_is_left_over_is_cut_off_on_both_sides(detectors, bin, first, count):
    assert bins(detectors, bin) == (first, count)
    assert bins(62, 4) == (1, 15)


def test_rows_are_added_up_like_detectors():
    integrals = np.stack([disc(), disc() / 2], 1)
    white = np.stack([beam(), 2 * beam()])
    found = line_integrals(counts_of(integrals, white), white, DARK)
    light = ((white - DARK) * np.exp(-integrals)).sum(1)
    assert np.allclose(found.values, -np.log(light / (white - DARK).sum(0)), atol=1e-5)


@pytest.mark.parametrize("value", [0.0, DARK, np.nan])
def test_a_dead_detector_is_counted_and_filled_in(value):
    counts = counts_of(disc(), beam())
    counts[:, 20] = value
    found = line_integrals(counts, beam(), DARK)
    assert found.losses.dead == (20,)
    assert not found.measured[:, 20].any()
    between = (disc()[:, 19] + disc()[:, 21]) / 2
    assert np.allclose(found.values[:, 20], between, atol=1e-5)
    others = np.arange(60) != 20
    assert np.allclose(found.values[:, others], disc()[:, others], atol=1e-5)


@pytest.mark.parametrize("white", [0.0, DARK, np.nan, DARK + 1])
def test_a_detector_without_an_open_beam_is_dead(white):
    bright = beam()
    counts = counts_of(disc(), bright)
    bright[40] = white
    assert line_integrals(counts, bright, DARK).losses.dead == (40,)


def test_a_saturated_detector_is_dead_though_its_open_beam_is_too():
    counts, white = counts_of(disc() * np.linspace(0.9, 1, 30)[:, None], beam()), beam()
    counts[:, 25] = white[25] = 65_535
    assert line_integrals(counts, white, DARK).losses.dead == (25,)


def test_hot_values_and_lost_ones_are_counted_one_by_one():
    counts = counts_of(disc(), beam())
    counts[5, 30] = 65_535
    counts[7, 31] = 0
    counts[8, 32] = np.nan
    found = line_integrals(counts, beam(), DARK)
    assert (found.losses.hot, found.losses.lost, found.losses.missing) == (1, 1, 1)
    assert found.losses.dead == ()
    assert np.abs(found.values - disc()).max() < 0.01
    assert "1 hot value(s)" in found.losses.in_words()


def test_a_dead_detector_in_a_bin_does_not_weigh():
    """Its neighbours' photons are compared with their own beam alone."""
    counts = counts_of(np.full((10, 60), 0.7), beam())
    counts[:, 21] = 0
    found = line_integrals(counts, beam(), DARK, bin=4)
    assert np.allclose(found.values, 0.7, atol=1e-5)
    assert found.losses.dead == (21,)
    assert found.measured.all()


def test_the_noise_of_binned_counts_is_that_of_their_sum():
    """Poisson counts: Var(−log) = 1 / the number of photons."""
    rng = np.random.default_rng(0)
    white = np.full(400, 50.0)
    counts = rng.poisson(50 * np.exp(-1.0), (2000, 400))
    found = line_integrals(counts, white, 0, bin=8)
    photons = 8 * 50 * np.exp(-1.0)
    assert found.values.std() == pytest.approx(photons**-0.5, rel=0.02)
    assert found.values.mean() == pytest.approx(1.0, abs=0.5 / photons + 0.001)


def test_views_without_a_value_lie_between_their_neighbours():
    values, measured = disc(), np.ones((30, 60), bool)
    values[4] = np.nan
    measured[4] = False
    assert np.allclose(filled(values, measured), disc())


@pytest.mark.parametrize(
    ("white", "dark", "says"),
    [(DARK, 20_000.0, "swapped"), (30_000.0, 29_000.0, "not above the dark current")],
)
def test_what_cannot_be_counts_is_refused(white, dark, says):
    with pytest.raises(BadCounts, match=says):
        line_integrals(counts_of(disc(), beam()), white, dark)


class TestLooks:
    def test_counts_and_transmissions(self):
        counts = counts_of(disc(), beam())
        assert look_like_counts(counts)
        assert look_like_counts(np.exp(-disc()))
        assert look_like_counts(np.rint(counts).astype(np.uint16))

    @pytest.mark.parametrize("scale", [1e-3, 1, 500])
    def test_line_integrals_of_any_unit(self, scale):
        noise = np.random.default_rng(0).normal(0, 0.01, disc().shape)
        assert not look_like_counts(scale * disc())
        assert not look_like_counts(scale * (disc() + noise))
        assert look_like_line_integrals(disc() + noise)
        assert look_like_line_integrals(disc() / 30_000)

    @pytest.mark.parametrize("absorbed", [0.1, 0.25])
    @pytest.mark.parametrize("photons", [2000, 20_000])
    def test_counts_of_which_little_is_absorbed(self, absorbed, photons):
        """No line integral is as large as their thousands."""
        rng = np.random.default_rng(0)
        lines = -np.log(1 - absorbed) * disc() / disc().max()
        assert look_like_counts(rng.poisson(photons * np.exp(-lines)))
        assert not look_like_counts(rng.poisson(photons, disc().shape))
        assert not look_like_counts(500 * (lines + rng.normal(0, 0.01, lines.shape)))

    def test_an_object_wider_than_the_detector(self):
        assert not look_like_counts(disc()[:, 15:45])
        assert not look_like_line_integrals(np.exp(-disc()[:, 15:45]))

    def test_nothing_in_the_way(self):
        assert not look_like_counts(np.ones((10, 20)))
        assert not look_like_line_integrals(np.ones((10, 20)))


@pytest.mark.parametrize("usual", [0.2, 1.0, 1000.0, 60000.0])
def test_what_is_dim_is_told_against_the_usual_open_beam(usual):
    """In counts of any unit."""
    beam = np.full((1, 9), usual)
    beam[0, 2], beam[0, 5] = 0.02 * usual, 0.005 * usual
    assert np.flatnonzero(~_has_beam(beam)[0]).tolist() == [5]
