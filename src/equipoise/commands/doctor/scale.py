"""Whether the values can be what they are said to be, where water is."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from ...data.dataset import Dataset
from .finding import Finding, judged

#: The attenuation, as a multiple of water's, of what people scan: foam to metal. Tissue, water and
#: plastics are at 0.9 to 1.2, bone, teeth and stone at 2 to 5.
LEAST, MOST = 0.3, 6.0
#: What attenuates more than half as much as the densest pixels is not air.
DENSE = 0.995
#: What lies in the scanner stands out from the noise of the air around it this much, …
CLEAR = 5.0
#: … the noise being the size of what is negative.
#: Fewer pixels than these say nothing.
FEWEST = 30


def scale(sample: Dataset, x: Tensor) -> Iterator[Finding]:
    """How much what lies in the scanner attenuates beside water, of measurements whose values come
    in Hounsfield units because somebody said what water attenuates.

    Args:
        x: the least-squares images of the sample, (N, 1, H, W), in the units of the model.
    """
    units = sample.items[0].units
    if units.peak is None or units.name != "HU" or sample.truth is not None:
        return
    relative = x.double() * units.scale / 1000
    values = relative[relative > 0].cpu()
    if len(values) < FEWEST:
        return
    dense = values.quantile(DENSE)
    below = relative[relative < 0]
    air = float(below.square().mean().sqrt()) if len(below) else 0.0
    inside = values[values > dense / 2]
    if float(dense) < CLEAR * air or len(inside) < FEWEST:
        return
    median = float(inside.median())
    water = 1000 * units.peak / units.scale
    what = (
        f"scale: what lies in the scanner attenuates {median:.3g} times as much as water "
        f"({1000 * (median - 1):+.0f} HU, data.water={water:.3g})"
    )
    yield judged(
        LEAST <= median <= MOST,
        what,
        "tissue, water and plastics have 0.9 to 1.2, bone and stone 2 to 5: look for centimetres "
        "instead of millimetres (ten times), for metres, for values that were scaled before they "
        "were saved, or for data.water of another unit: it is per millimetre where the geometry "
        "is in millimetres, else per pixel",
    )
