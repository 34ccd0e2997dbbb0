"""How much of an image the prior supplies."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from ...assessment.uncertainty import measured_and_invented
from ...assessment.uncertainty.parts import MUCH
from ...config import Config
from ...data.dataset import Dataset
from .finding import Finding, judged

#: Without a true image, the model makes one; of more pixels than these that takes too long here.
MOST_PIXELS = 128**2


def prior(config: Config, sample: Dataset) -> Iterator[Finding]:
    """What share of an image's energy the measurements do not determine, above their noise: of a
    true image, or of what the model makes before training."""
    one = sample.some(torch.tensor([0]))
    y, physics, x = one.batch(torch.tensor([0]))
    if x is None:
        if math.prod(one.scan.image_shape[-2:]) > MOST_PIXELS:
            return
        model = config.model.make(one.scan.image_shape[0], one.scan.noise, config.seed)
        with torch.no_grad():
            x = model(y, physics)
    share = float(measured_and_invented(physics, x.to(y), one.scan.noise**2).share())
    yield judged(
        share <= MUCH,
        f"prior: {share:.0%} of an image's energy is not determined by the measurements",
        "the prior supplies more than the data: measure more (views, lines, points), or believe no "
        "detail that only the prior drew: equipoise reconstruct --samples shows which",
        otherwise="note",
    )
