"""equipoise simulate: images in, what an operator would have measured of them out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..config import Config, changed, dump
from ..data.dataset import Dataset
from ..data.formats import new_folder
from ..data.formats.patients import write_patients
from ..data.load import load_dataset
from ..data.scan import Scan
from ..errors import UserError
from ..machine import whole_folder, write_whole


def simulate(config: Config, out: str | Path) -> list[Path]:
    """Measures the images that ``config`` names, and writes what was measured into the new folder
    ``out``: one ``.npy`` each in ``out/measurements``, and ``out/config.yaml``, which trains on
    them. The images themselves are not written. Whom each shows stands in ``patients.csv`` beside
    them, so that patients stay apart.

    Raises:
        UserError: ``out`` is not empty; the data are measurements already, or differ in size.
    """
    out = new_folder(out)
    scan = Scan.planned(config.physics, config.data.size, config.seed)
    dataset = load_dataset(config.data, scan, config.seed, stream=True)
    if dataset.items[0].holds != "image":
        raise UserError(
            f"{dataset.items[0].file}: holds measurements already; simulate measures images"
        )
    if dataset.differs_in_size:
        raise UserError(
            f"{dataset.items[0].file.parent}: holds images of different sizes; simulate writes "
            "measurements of one: set data.size to it (data.fit says how images are made to fit)"
        )
    folder = out / "measurements"
    paths = _file_names(dataset, folder)
    with whole_folder(out) as unfinished:
        (unfinished / folder.name).mkdir()
        for i, path in enumerate(paths):
            y = dataset.batch(torch.tensor([i])).y[0]
            values = dataset.scan.measurement_to_native(y).numpy()
            np.save(unfinished / folder.name / path.name, values)
        named = list(zip(paths, dataset.items, strict=True))
        if any(item.patient != path.stem or item.series for path, item in named):
            who = ((path.name, item) for path, item in named)
            write_patients(unfinished / folder.name, who)
        text = dump(_that_trains_on(config, dataset, folder))
        write_whole(unfinished / "config.yaml", text)
    return paths


def _file_names(dataset: Dataset, folder: Path) -> list[Path]:
    paths = [folder / f"{name.split('.')[0]}.npy" for name in dataset.names]
    if len(set(paths)) == len(paths):
        return paths
    return [folder / f"{i:05d}.npy" for i in range(len(paths))]


def _that_trains_on(config: Config, dataset: Dataset, folder: Path) -> Config:
    """The configuration of a run on the measurements in ``folder``."""
    data = config.data
    section: dict[str, Any] = {
        "kind": "measurements",
        "path": str(folder.resolve()),
        "size": list(dataset.scan.image_shape[-2:]),
        "keep_out": data.keep_out,
    }
    if data.holdout:
        section["holdout"] = data.holdout
    if data.validation is not None:
        section["validation"] = str(data.validation.resolve())
    changes: dict[str, Any] = {"name": f"{config.name}-simulated", "out": None, "data": section}
    if not data.keep_out:
        changes["learning.patience"] = 0
    return changed(config, changes)
