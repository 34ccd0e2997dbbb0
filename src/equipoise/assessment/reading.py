"""What the page's viewer reads out under the pointer: value ± deviation in the units of the file,
and the panels that show both."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from .scales import ends


@dataclass(frozen=True)
class Reading:
    """Of one image (H, W), in its own units."""

    value: np.ndarray
    std: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    level: float
    unit: str = ""
    measured: np.ndarray | None = None  #: what the data determine
    invented: np.ndarray | None = None  #: what the prior adds

    def panels(self) -> list[dict[str, Any]]:
        """Bounds, deviation and parts for the viewer, each with its scale in its name."""
        low, high = ends(self.value)
        percent = f"{self.level:.0%} bound"
        top = max(ends(self.std)[1], 1e-12)
        panels = [
            _panel(f"Lower {percent}", self.lower, low, high),
            _panel(f"Upper {percent}", self.upper, low, high),
            _panel(f"± deviation, white is {self._with_unit(top)}", self.std, 0.0, top),
        ]
        if self.measured is not None and self.invented is not None:
            far = max(*np.abs(ends(self.invented)), 1e-12)
            panels.append(_panel("What the data determine", self.measured, low, high))
            name = f"What the prior adds, −{self._with_unit(far)} … {self._with_unit(far)}"
            panels.append(_panel(name, self.invented, -far, far))
        return panels

    def image_panel(self, name: str, score: str = "") -> dict[str, Any]:
        """The image itself, on the scale of its bounds."""
        low, high = ends(self.value)
        scale = f"{_short(low)} … {self._with_unit(high)}"
        return {**_panel(name, self.value, low, high), "score": score or scale, "extra": False}

    def as_json(self) -> dict[str, Any]:
        """What the page holds: 16 bits a number, in base64, with the ends of their scale."""
        names = ("value", "std", "lower", "upper")
        return {
            "width": self.value.shape[1],
            "height": self.value.shape[0],
            "unit": self.unit,
            "level": f"{self.level:.0%}",
            "digits": _digits(self.std),
            **{name: _packed(getattr(self, name)) for name in names},
        }

    def _with_unit(self, value: float) -> str:
        return f"{_short(value)} {self.unit}".strip()


def _short(value: float) -> str:
    """Three digits, without an exponent where it can be read without."""
    text = f"{value:.0f}" if 100 <= abs(value) < 1e6 else f"{value:.3g}"
    return text.replace("-", "−")


def _panel(name: str, x: np.ndarray, low: float, high: float) -> dict[str, Any]:
    gray = np.clip((np.nan_to_num(x) - low) / (high - low), 0, 1)
    buffer = io.BytesIO()
    Image.fromarray((gray * 255).round().astype(np.uint8)).save(buffer, format="png")
    png = base64.b64encode(buffer.getvalue()).decode()
    return {"name": name, "png": png, "score": "", "extra": True}


def _packed(x: np.ndarray) -> dict[str, Any]:
    finite = np.nan_to_num(x.astype(np.float64))
    low, high = float(finite.min()), float(finite.max())
    step = max(high - low, 1e-30) / 65535
    numbers = np.rint((finite - low) / step).astype("<u2")
    return {"data": base64.b64encode(numbers.tobytes()).decode(), "low": low, "step": step}


def _digits(std: np.ndarray) -> int:
    """Decimals with which a typical deviation has two digits."""
    typical = float(np.median(std[std > 0])) if bool((std > 0).any()) else 1.0
    return int(np.clip(1 - np.floor(np.log10(typical)), 0, 6))
