"""Laws of a training step, and of what is remembered between steps."""

from __future__ import annotations

import statistics

import pytest
import torch

import equipoise as eq
from equipoise.errors import TrainingGaveUp, UserError
from equipoise.learning import checkpoint
from equipoise.learning.losses import Equivariance, JacobianPenalty, Splitting, Supervised
from equipoise.learning.trainer import PATIENCE

from .examples import ct_dataset, gradient_of, small_model, small_trainer


class TestTrust:
    def test_nonfinite_gradients_do_not_move_the_weights(self):
        trainer = small_trainer({"broken": lambda x_net, **kwargs: x_net.sum() * float("nan")})
        before = {k: v.clone() for k, v in trainer.model.state_dict().items()}
        assert "the loss is nan" in trainer.advance().skipped
        assert all(torch.equal(before[k], v) for k, v in trainer.model.state_dict().items())
        for _ in range(PATIENCE - 2):
            trainer.advance()
        with pytest.raises(TrainingGaveUp, match="steps in a row were skipped"):
            trainer.advance()

    def test_a_gradient_far_outside_its_history_is_shortened_if_it_is_long(self):
        scale = [1.0]
        losses = {"scaled": lambda x_net, **kwargs: scale[0] * x_net.square().mean()}
        clip = 0.1
        trainer = small_trainer(losses, steps=100, lr=1e-6, clip=clip)
        progress = trainer.progress
        usual = trainer.advance().gradient
        scale[0] = 0.5 * clip / usual
        progress.history = usual / 1e4
        assert not trainer.advance().shortened  # far outside, but shorter than the clip
        scale[0], progress.history = 1e3 * scale[0], usual / 1e4
        report = trainer.advance()
        assert "far above the usual" in report.shortened
        assert not report.skipped
        assert float(gradient_of(trainer).norm()) == pytest.approx(usual / 1e4, rel=1e-3)
        assert progress.history == pytest.approx((0.95 + 0.05 * 30) * usual / 1e4)
        for _ in range(20):  # what stays is usual soon
            report = trainer.advance()
        assert not report.shortened
        progress.history = 2 * clip  # a usual norm above the clip: shortening never lengthens
        scale[0] = 1e3 * progress.history / usual
        assert trainer.advance().shortened
        assert float(gradient_of(trainer).norm()) == pytest.approx(clip, rel=1e-3)

    def test_no_step_is_longer_than_the_median_of_the_last_fifty(self):
        scale = [1.0]
        losses = {"scaled": lambda x_net, **kwargs: scale[0] * x_net.square().mean()}
        trainer = small_trainer(losses, steps=200, lr=1e-12)
        scales = torch.rand(70, generator=torch.Generator().manual_seed(0)).add(0.1).tolist()
        scales[60] = 1e4
        norms = []
        for step, factor in enumerate(scales):
            scale[0] = factor
            report = trainer.advance()
            norms.append(report.gradient)
            usual = statistics.median(norms[-50:])
            assert float(gradient_of(trainer).norm()) == pytest.approx(min(norms[-1], usual))
            assert bool(report.shortened) == (step == 60)


class TestTruth:
    def test_it_is_handed_to_a_supervised_loss_alone(self):
        data = ct_dataset(with_truth=True)
        handed = []

        def spy(x, **kwargs):
            handed.append(x)
            return kwargs["x_net"].square().mean()

        small_trainer({"spy": spy}, data).advance()
        assert handed == [None]
        small_trainer({"spy": spy, "supervised": Supervised()}, data).advance()
        assert handed[1].shape == (3, 1, 16, 16)

    def test_a_supervised_loss_needs_it(self):
        with pytest.raises(UserError, match=r"objective.supervised needs images"):
            small_trainer({"supervised": Supervised()}, ct_dataset(with_truth=False))

    def test_supervised_training_approaches_the_truth(self):
        data = ct_dataset(count=3, with_truth=True)
        trainer = small_trainer({"supervised": Supervised()}, data, steps=30, lr=1e-2, clip=10.0)
        losses = [trainer.advance().loss for _ in range(30)]
        assert losses[-1] < 0.9 * losses[0]


def every_loss():
    return {
        "splitting": Splitting(parts=2),
        "equivariance": Equivariance(eq.Rotations()),
        "contraction": JacobianPenalty(bound=0.1, along="memory"),
    }


class TestSharing:
    def test_parts_of_a_batch_give_the_gradient_of_the_whole(self):
        reports, gradients, directions = [], [], []
        for accumulate in (1, 2, 5):
            trainer = small_trainer(
                every_loss(),
                model=small_model(rtol=1e-10),
                batch=5,
                accumulate=accumulate,
                clip=1e6,
            )
            trainer.model.gradient = eq.Implicit(stop=eq.Stop(1e-10, 200))
            trainer.advance()
            reports.append(trainer.advance())
            gradients.append(gradient_of(trainer))
            directions.append(trainer.directions["contraction"])
        for i in (1, 2):
            assert reports[i].loss == pytest.approx(reports[0].loss, rel=1e-6)
            assert (gradients[i] - gradients[0]).norm() < 1e-6 * gradients[0].norm()
            assert torch.allclose(directions[i], directions[0], rtol=1e-5)
            assert reports[i].gain == pytest.approx(reports[0].gain, rel=1e-6)


class TestReport:
    def test_it_tells_what_happened(self):
        trainer = small_trainer(every_loss())
        report = trainer.advance()
        assert report.step == 1
        assert report.loss == pytest.approx(sum(report.parts.values()))
        assert report.parts.keys() == every_loss().keys()
        assert report.forward > 1
        assert report.adjoint > 1
        assert 0 < report.residual <= 2e-3
        assert report.unsolved == 0
        assert report.gain > 0.1
        assert '"skipped"' not in report.line()

    def test_unsolved_counts_forward_and_adjoint_solves(self):
        model = small_model()
        model.gradient = eq.Implicit(stop=eq.Stop(1e-12, 1))  # no adjoint solve ends in time
        report = small_trainer(model=model).advance()
        assert report.unsolved == pytest.approx(0.5)
        model = small_model()
        model.stop = eq.Stop(1e-12, 1)
        assert small_trainer(model=model).advance().unsolved == pytest.approx(0.5)


class TestCheckpoint:
    def test_going_on_is_exact(self, tmp_path):
        whole = small_trainer(every_loss())
        for _ in range(6):
            whole.advance()
        parts = small_trainer(every_loss())
        for _ in range(3):
            parts.advance()
        parts.note_validation({"misfit": 1.0})
        checkpoint.write(tmp_path / "c.safetensors", *parts.checkpoint())
        resumed = small_trainer(every_loss())
        resumed.restore(checkpoint.read(tmp_path / "c.safetensors"))
        assert resumed.best.keys() == resumed.average.keys()
        resumed.best = {}
        resumed.progress.best_score, resumed.progress.best_step = whole.progress.best_score, 0
        for _ in range(3):
            resumed.advance()
        for a, b in zip(whole.checkpoint(), resumed.checkpoint(), strict=True):
            assert a.keys() == b.keys()
            for key, value in a.items():
                assert torch.equal(torch.as_tensor(value), torch.as_tensor(b[key])), key

    def test_tensors_have_the_names_of_release_0_1(self):
        trainer = small_trainer(every_loss())
        trainer.advance()
        trainer.note_validation({"misfit": 1.0})
        tensors, numbers = trainer.checkpoint()
        kinds = {name.split(".")[0] for name in tensors}
        assert kinds >= {"model", "average", "best", "direction", "optimizer"}
        assert "direction.contraction" in tensors
        assert set(numbers) >= {"step", "skipped", "history", "best_score", "best_step"}


class TestPrecision:
    def test_no_product_of_a_step_is_rounded(self):
        """Of float32, on a GPU: neither in the solves nor in what follows the adjoint."""

        class Watched(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                seen.append(torch.backends.cudnn.allow_tf32)
                return x.clone()

            @staticmethod
            def backward(ctx, g):
                seen.append(torch.backends.cudnn.allow_tf32)
                return g

        seen = []
        trainer = small_trainer({"size": lambda x_net, **kwargs: x_net.square().mean()})
        network = trainer.model.step.denoiser
        network.register_forward_hook(lambda module, args, out: Watched.apply(out))
        before = torch.backends.cudnn.allow_tf32
        torch.backends.cudnn.allow_tf32 = True
        try:
            trainer.advance()
            assert torch.backends.cudnn.allow_tf32
        finally:
            torch.backends.cudnn.allow_tf32 = before
        assert len(seen) > 3
        assert not any(seen)
