"""A trained model as a folder that travels, in the layout of the Hugging Face hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from .build import denoiser_config
from .errors import UserError
from .imaging.writers import new_folder
from .runs import Run, evaluations

CARD = """---
library_name: equipoise
tags: [image-reconstruction, self-supervised, deep-equilibrium, {kind}]
license: {licence}
---
# {name}

Reconstructs images from measurements of this operator; it was trained from measurements alone (see `objective` in `config.json`).

```python
from equipoise import EquilibriumReconstructor
model = EquilibriumReconstructor.from_pretrained("FOLDER")
x = model(y, physics)  # a deepinv physics with norm 1, and its measurements
```

- Physics: {physics}
- Data: {data}; licence of the data: {data_licence}
- Model: {step} step, {parameters:,} parameters, denoiser `{denoiser}`, images of {channels} channel(s), noise level {sigma:g}
- Metrics: {metrics}
- Limits: made for measurements like those it was trained on. With another operator, noise level or anatomy its scores are not
  known; what the operator does not see is a guess, however sharp it looks. The equilibrium is not found for every input:
  `model.equilibrium(y, physics)` reports residual and status of each image. Not a medical device.
"""


def export(run: Run, out: str | Path, licence: str = "unknown", program: bool = False) -> Path:
    """Writes ``model.safetensors``, ``config.json`` and a model card into the new folder ``out``; with ``program``, also
    ``denoiser.pt2``, the denoiser alone as a `torch.export` program (of images of the run's size, any number of them).

    Raises:
        UserError: ``out`` is not empty.
    """
    out, model, config = new_folder(out), run.model, run.config
    out.mkdir(parents=True, exist_ok=True)
    channels = int(run.physics.image_shape[0])
    save_file({k: v.contiguous().clone() for k, v in model.state_dict().items()}, out / "model.safetensors")
    physics = config.physics.model_dump(mode="json", exclude_none=True)
    about: dict[str, Any] = {
        "library_name": "equipoise",
        "model": config.model.model_dump(mode="json"),
        "denoiser": denoiser_config(model),
        "channels": channels,
        "noise": run.noise,
        "size": config.data.size,
        "physics": physics,
        "objective": config.objective.model_dump(mode="json"),
        "learning": config.learning.model_dump(mode="json"),
    }
    (out / "config.json").write_text(json.dumps(about, indent=1))
    card = CARD.format(
        kind=physics["kind"],
        licence=licence,
        name=config.name,
        physics=", ".join(f"{k} {v}" for k, v in physics.items()) + f", {config.data.size}² pixels",
        data=config.data.path.name if config.data.path else "synthetic phantoms",
        data_licence="none needed" if config.data.path is None else "see its owner",
        step=config.model.step,
        parameters=sum(p.numel() for p in model.parameters()),
        denoiser=about["denoiser"]["architecture"],
        channels=channels,
        sigma=config.model.sigma,
        metrics="; ".join(_metrics(run.folder)) or "not evaluated yet (equipoise evaluate)",
    )
    (out / "README.md").write_text(card)
    if program:
        _program(run, channels, out / "denoiser.pt2")
    return out


def _metrics(folder: Path) -> list[str]:
    """A sentence for each evaluation in the run's folder."""
    found = []
    for _, results in evaluations(folder):
        score, what = results["methods"]["equipoise"], f"{len(results['images'])} images ({results['problem']['data']})"
        found.append(f"{score['psnr']:.2f} dB PSNR, SSIM {score['ssim']:.3f} on {what}")
    return found


def _program(run: Run, channels: int, path: Path) -> None:
    step: Any = run.model.step
    images = torch.zeros(2, channels, run.config.data.size, run.config.data.size, dtype=next(run.model.parameters()).dtype)

    class Alone(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.denoiser = step.denoiser

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.denoiser(x, step.sigma)
            return out

    try:
        made = torch.export.export(Alone().eval(), (images,), dynamic_shapes={"x": {0: torch.export.Dim.AUTO}})
        torch.export.save(made, path)
    except Exception as error:  # of many kinds
        raise UserError(
            f"{path}: this denoiser cannot be exported as a program ({str(error).splitlines()[0]}); leave out --program"
        ) from error
