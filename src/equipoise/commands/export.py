"""equipoise export: a trained model as a folder that travels, in the Hugging Face hub's layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save

from ..assessment.words import how_it_was_trained
from ..comparison.evaluation import evaluations
from ..data.formats import new_folder
from ..errors import UserError
from ..imaging.sizes import shown_size
from ..machine import json_text, whole_folder, write_whole
from ..reconstruction.settings import denoiser_config
from ..run import Run

CARD = """---
library_name: equipoise
tags: [image-reconstruction, self-supervised, deep-equilibrium, {kind}]
{licence}
---
# {name}

Reconstructs images from measurements of this operator. {training} (See `objective` in
`config.json`.)

```python
from equipoise import EquilibriumReconstructor
model = EquilibriumReconstructor.from_pretrained("FOLDER")
x = model(y, physics)  # a deepinv physics with norm 1, and its measurements
```

- Physics: {physics}; a measurement has the shape {shape}
- Units: {units}
- Data: {data}; licence of the data: {data_licence}
- Model: {step} step, {parameters:,} parameters, denoiser `{denoiser}`, images of {channels}
  channel(s), noise level {sigma:g}
- Metrics: {metrics}
- Limits: made for measurements like those it was trained on. With another operator, noise level or
  anatomy its scores are not known; what the operator does not see is a guess, however sharp it
  looks. The equilibrium is not found for every input: `model.equilibrium(y, physics)` reports
  residual and status of each image. Not a medical device.
"""


#: Of runs on the k-space of scanners.
OF_SCANNERS = "k-space as scanners measured it, each with its own mask, coils and noise"
KSPACE_UNITS = (
    "images whose brightest parts are near 1, and k-space of them whose noise was whitened among "
    "the coils, divided by one number for each scan, which is found in its calibration lines"
)


def export(run: Run, out: str | Path, licence: str = "unknown", with_program: bool = False) -> Path:
    """Writes ``model.safetensors``, ``config.json`` and a model card into the new folder ``out``;
    ``with_program``, also ``denoiser.pt2``, the denoiser alone as a `torch.export` program (of
    images of the run's size, any number of them).

    Raises:
        UserError: ``out`` is not empty.
    """
    out = new_folder(out)
    weights = {name: v.contiguous().clone() for name, v in run.model.state_dict().items()}
    about = _about(run)
    with whole_folder(out) as folder:
        # Of a full disk save_file says something of its own, which nobody expects; this an OSError.
        (folder / "model.safetensors").write_bytes(save(weights))
        write_whole(folder / "config.json", json_text(about, indent=1))
        write_whole(folder / "README.md", _card(run, about, licence))
        if with_program:
            _write_program(run, about["channels"], folder / "denoiser.pt2")
    return out


def _about(run: Run) -> dict[str, Any]:
    config = run.config
    return {
        "library_name": "equipoise",
        "model": config.model.model_dump(mode="json"),
        "denoiser": denoiser_config(run.model),
        "channels": int(run.scan.image_shape[0]),
        "noise": run.scan.noise,
        "gain": run.scan.gain,
        "peak": getattr(config.data, "peak", 1.0),
        "measurement_shape": run.learnt_from.get("shape", list(run.scan.measurement_shape)),
        "size": config.data.size,
        "physics": config.physics.model_dump(mode="json", exclude_none=True),
        "objective": config.objective.model_dump(mode="json"),
        "learning": config.learning.model_dump(mode="json"),
    }


def _card(run: Run, about: dict[str, Any], licence: str) -> str:
    config, physics = run.config, about["physics"]
    path = getattr(config.data, "path", None)
    is_kspace = run.learnt_from.get("is_kspace", False)
    options = ", ".join(f"{key} {value}" for key, value in physics.items() if key != "read")
    return CARD.format(
        kind=physics["kind"],
        licence=yaml.safe_dump({"license": licence}, allow_unicode=True).strip(),
        name=config.name,
        training=how_it_was_trained(config, run.scan),
        physics=OF_SCANNERS if is_kspace else f"{options}, {shown_size(config.data.size)} pixels",
        shape=" × ".join(map(str, about["measurement_shape"])),
        units=KSPACE_UNITS if is_kspace else _units(about["peak"], about["gain"]),
        data=path.name if path else "synthetic phantoms",
        data_licence="see its owner" if path else "none needed",
        step=config.model.step.kind,
        parameters=sum(p.numel() for p in run.model.parameters()),
        denoiser=about["denoiser"]["architecture"],
        channels=about["channels"],
        sigma=config.model.sigma,
        metrics="; ".join(_metrics(run.folder)) or "not evaluated yet (equipoise evaluate)",
    )


def _units(peak: float, gain: float) -> str:
    return (
        f"images in which 1 stands for {peak:g} in the unit of the data, and measurements of them "
        f"by an operator of norm 1: a scanner's values times {gain / peak:.6g} ({gain:.6g}, by "
        f"which the operator is multiplied, over {peak:g})"
    )


def _metrics(folder: Path) -> list[str]:
    """A sentence for each evaluation in the run's folder."""
    sentences = []
    for _, results in evaluations(folder):
        score = results["methods"]["equipoise"]
        images = f"{len(results['images'])} images ({results['problem']['data']})"
        sentences.append(f"{score['psnr']:.2f} dB PSNR, SSIM {score['ssim']:.3f} on {images}")
    return sentences


class _DenoiserAlone(torch.nn.Module):
    def __init__(self, denoiser: torch.nn.Module, sigma: float):
        super().__init__()
        self.denoiser, self.sigma = denoiser, sigma

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        clean: torch.Tensor = self.denoiser(x, self.sigma)
        return clean


def _write_program(run: Run, channels: int, path: Path) -> None:
    step, (height, width) = run.model.step, run.scan.image_shape[-2:]
    dtype = next(run.model.parameters()).dtype
    images = torch.zeros(2, channels, height, width, dtype=dtype)
    network = _DenoiserAlone(step.denoiser, step.sigma).eval()
    any_number = {"x": {0: torch.export.Dim.AUTO}}
    try:
        program = torch.export.export(network, (images,), dynamic_shapes=any_number)
        torch.export.save(program, path)
    except Exception as error:  # of many kinds
        raise UserError(
            f"{path}: this denoiser cannot be exported as a program "
            f"({str(error).splitlines()[0]}); leave out --program"
        ) from error
