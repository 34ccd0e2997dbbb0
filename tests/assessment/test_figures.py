"""Figures show the numbers that they are given."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import equipoise as eq
from equipoise.assessment import figures
from equipoise.assessment.figures.canvas import plt
from equipoise.assessment.figures.training import smoothed
from equipoise.assessment.table import Value


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def texts(figure):
    return [text.get_text() for ax in figure.axes for text in ax.texts]


class TestGrid:
    def test_images_scores_and_errors(self):
        truth = eq.phantoms(3, 16)
        images = {"Half": 0.5 * truth, "Right": truth}
        figure = figures.grid(torch.rand(3, 1, 5, 23), images, truth, ["a", "b", "c"], rows=2)
        axes = np.array(figure.axes[:-1]).reshape(4, 4)  # the last holds the colour bar
        titles = [ax.get_title() for ax in axes[0]]
        assert titles == ["Measurement", "Half", "Right", "Truth"]
        assert [axes[k][0].get_ylabel() for k in (0, 2)] == ["a", "b"]
        shown = axes[2][1].images[0]
        assert np.allclose(shown.get_array(), 0.5 * truth[1, 0].numpy())
        assert shown.get_clim() == (0, 1)
        error = axes[3][1].images[0]
        assert np.allclose(error.get_array(), 0.5 * truth[1, 0].numpy())
        assert np.allclose(axes[3][2].images[0].get_array(), 0)
        scales = {axes[k][j].images[0].get_clim() for k in (1, 3) for j in (1, 2)}
        assert len(scales) == 1  # one scale for all
        assert any(text.startswith("200.0 dB  1.000") for text in texts(figure))

    def test_without_truth(self):
        x = torch.rand(2, 1, 8, 8)
        figure = figures.grid(torch.rand(2, 1, 3, 9), {"One": x}, None, ["a", "b"])
        assert len(figure.axes) == 4
        assert texts(figure) == []

    def test_the_frame_in_the_middle_of_a_sequence(self):
        x = torch.rand(1, 2, 5, 8, 8)
        figure = figures.grid(torch.rand(1, 2, 5, 8, 8), {"One": x}, x, ["a"])
        middle = x[0, :, 2].square().sum(0).sqrt().numpy()
        assert np.allclose(figure.axes[1].images[0].get_array(), middle)

    def test_images_that_are_not_finite(self, tmp_path):
        x = torch.full((1, 1, 8, 8), float("nan"))
        figure = figures.grid(torch.rand(1, 1, 3, 9), {"Lost": x}, torch.rand(1, 1, 8, 8), ["a"])
        assert len(figures.save_png(figure, tmp_path / "grid.png")) > 1000

    @pytest.mark.parametrize("shape", [(1, 5, 9), (2, 8, 8), (2, 4, 8, 8), (1, 30), (2, 30)])
    def test_any_measurement_has_a_picture(self, shape):
        x = torch.rand(1, 1, 8, 8)
        figure = figures.grid(torch.rand(1, *shape), {"One": x}, None, ["a"])
        assert figure.axes[0].images[0].get_array().ndim == 2


class TestComparison:
    def test_boxes_stand_by_their_median(self):
        figure = figures.boxes({"Low": [1.0, 2.0, 9.0], "None": [], "High": [3.0, 3.5, 4.0]})
        labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
        assert labels == ["Low", "High"]

    def test_costs(self):
        methods = [figures.Cost("FBP", 20.0, None, 0.01), figures.Cost("Net", 30.0, 15.0, 0.2)]
        left, right = figures.cost(methods).axes
        points = [(line.get_xdata()[0], line.get_ydata()[0]) for line in left.lines]
        assert points == [(0, 20.0), (15.0, 30.0)]
        points = [(line.get_xdata()[0], line.get_ydata()[0]) for line in right.lines]
        assert points == [(0.01, 20.0), (0.2, 30.0)]
        labels = [text.get_text() for text in right.get_legend().get_texts()]
        assert labels == ["FBP", "Net"]

    def test_elsewhere(self):
        found = {
            "noise": {
                "0.1": {"Net": Value(30.0, 0.5), "Two": Value(28.0)},
                "0.2": {"Net": Value(25.0)},
            },
            "views": {"9": {"Net": Value(30.0, 0.5)}},
        }
        first, second = figures.elsewhere(found).axes
        assert first.lines[0].get_ydata().tolist() == [30.0, 25.0]
        two = first.lines[1].get_ydata()
        assert two[0] == 28.0
        assert np.isnan(two[1])
        assert second.get_xlabel() == "views"
        band = first.collections[0].get_paths()[0].vertices
        assert band[:, 1].min() == 25.0
        assert band[:, 1].max() == 30.5


class TestDiagnosis:
    def test_gaps(self):
        curves = {
            "turn": [(5.0, [0.1, 0.3]), (90.0, [0.0, 0.2])],
            "shift": [(1.0, [0.1, 0.1])],
            "flip": [(0.0, [0.1, 0.1]), (1.0, [0.2, 0.2])],
        }
        figure = figures.gaps({"Net": {"gap": curves, "commutes": {**curves, "turn": []}}})
        (line,) = figure.axes[0].lines
        assert line.get_xdata().tolist() == [5.0, 90.0]
        assert line.get_ydata() == pytest.approx([0.2, 0.1])
        assert len(figure.axes[3].lines) == 0
        assert [t.get_text() for t in figure.legends[0].get_texts()] == ["Net"]

    def test_residuals_end_where_a_sample_was_done(self):
        forward = {"Net": [[1.0, 0.1, 0.01, 0.01, 0.01], [1.0, 0.5, 0.4, 0.3, 0.2]]}
        figure = figures.residuals(forward, {"Net": [[0.5]]})
        lengths = [len(line.get_ydata()) for line in figure.axes[0].lines]
        assert lengths == [3, 5]
        assert figure.axes[1].lines[0].get_ydata().tolist() == [0.5]


class TestTraining:
    @pytest.fixture
    def log(self):
        return [
            {
                "step": k,
                "parts": {"splitting": 1 / k, "contraction": 0.0},
                "forward": 10.0,
                "adjoint": 5.0,
                "residual": 1e-3,
                "adjoint_residual": 1e-2,
                "gradient": 0.1,
                "unsolved": 0.25,
            }
            for k in range(1, 6)
        ]

    def test_what_is_drawn(self, log):
        figure = figures.curves(log)
        labels = [t.get_text() for t in figure.axes[0].get_legend().get_texts()]
        assert labels == ["splitting", "contraction: 0 throughout"]
        assert figure.axes[0].lines[0].get_ydata() == pytest.approx([1 / k for k in range(1, 6)])
        assert "nothing was kept for validation" in texts(figure)

    def test_solves_that_did_not_finish(self, log):
        right = figures.curves(log).axes[4]
        assert right.lines[0].get_ydata().tolist() == [25.0] * 5
        assert right.get_ylim() == (0, 100)

    def test_validation(self, log):
        log[1]["validation"] = {"misfit": 0.2, "psnr": 20.0}
        log[4]["validation"] = {"misfit": 0.1, "psnr": 25.0}
        line = figures.curves(log).axes[3].lines[0]
        assert line.get_xdata().tolist() == [2, 5]
        assert line.get_ydata().tolist() == [20.0, 25.0]

    def test_smoothing_is_a_running_mean_without_what_is_not_finite(self):
        values = [float(k) for k in range(180)]
        found = smoothed(values)
        assert found[90] == pytest.approx(90.0)
        assert len(found) == 180
        values[90] = float("nan")
        assert smoothed(values)[90] == pytest.approx((89 + 91) / 2)
        assert smoothed([1.0, 2.0]).tolist() == [1.0, 2.0]
        assert np.isnan(smoothed([float("inf")])).all()
