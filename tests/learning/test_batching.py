"""Which measurements a step sees, and how they are read."""

from __future__ import annotations

import pytest
import torch

from equipoise.data.dataset import Streamed
from equipoise.errors import UserError
from equipoise.learning.batching import batch_indices

from .examples import ct, dataset_of, images, small_trainer


def test_every_epoch_sees_everything_once():
    indices = torch.cat([batch_indices(k, 10, 4, 3) for k in range(5)])
    assert sorted(indices.tolist()) == sorted([*range(10)] * 2)
    assert sorted(indices[:10].tolist()) == [*range(10)]
    assert not torch.equal(indices[:10], indices[10:])
    assert not torch.equal(indices[:4], batch_indices(0, 10, 4, 4))


def test_a_batch_may_be_larger_than_the_data():
    indices = batch_indices(0, 3, 8, 0)
    assert len(indices) == 8
    assert sorted(indices[:3].tolist()) == [0, 1, 2]
    assert sorted(indices[3:6].tolist()) == [0, 1, 2]


def test_more_parts_than_measurements():
    message = r"learning.batch=3 cannot be shared by 1 processes in 4 part\(s\) each; raise it to 4"
    with pytest.raises(UserError, match=message):
        small_trainer(accumulate=4)


@pytest.mark.parametrize("workers", [0, 1])
def test_streamed_data_are_those_in_memory(workers):
    """The same steps, also after a checkpoint in the middle."""
    physics = ct()
    y = physics.A(images(5)).float().double()
    in_memory = small_trainer(dataset=dataset_of(physics, y), batch=4, accumulate=2)
    streamed = Streamed(5, lambda i: y[i].float())
    other = small_trainer(
        dataset=dataset_of(physics, streamed), batch=4, accumulate=2, workers=workers
    )
    losses = [in_memory.advance().loss for _ in range(4)]
    assert [other.advance().loss for _ in range(2)] == losses[:2]
    resumed = small_trainer(
        dataset=dataset_of(physics, streamed), batch=4, accumulate=2, workers=workers
    )
    resumed.model.load_state_dict(other.model.state_dict())
    resumed.progress.step = 2
    assert resumed.advance().loss == losses[2]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_cannot_be_read_is_told_as_it_was(workers):
    """From a worker process, too, and nothing is guessed from a traceback."""
    y = ct().A(images(5))
    text = "scan_3.npy: cut short equipoise.errors.UserError: as its second line says"

    def read(i):
        if i == 3:
            raise UserError(text)
        return y[i]

    data = dataset_of(ct(), Streamed(5, read))
    trainer = small_trainer(dataset=data, batch=5, workers=workers)
    with pytest.raises(UserError) as caught:
        trainer.advance()
    assert str(caught.value) == text
    assert type(caught.value) is UserError
