"""An evaluation's images, scored as fastMRI scores them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..assessment.fastmri import CONVENTION, VolumeScores, center_crop, volume_scores
from ..assessment.table import Column, Row, Table, value_over_images
from ..data.dataset import Dataset
from ..data.item import Item
from ..errors import UserError
from ..imaging.framed import Framed

COLUMNS = [
    Column("nmse", "NMSE", ".4f", ".4f"),
    Column("psnr", "PSNR (dB)", ".2f", ".2f"),
    Column("ssim", "SSIM", ".4f", ".4f"),
]


def check_scorable(dataset: Dataset) -> None:
    """
    Raises:
        UserError: an item has nothing to compare with.
    """
    for item in dataset.items:
        if item.kspace.target is None or item.kspace.weight is None:
            raise UserError(
                f"{item.file}: fastMRI's measures compare with reconstruction_rss or "
                "reconstruction_esc, or with all lines of k-space, and it has none of them; "
                "evaluate without --score"
            )


def fastmri_table(dataset: Dataset, images: dict[str, Tensor], titles: dict[str, str]) -> Table:
    """A row for each method: the mean of its volumes' scores, and each of them in JSON.

    Args:
        dataset: that was reconstructed.
        images: key of a method → (N, 2, H, W).
        titles: key of a method → its name for readers.

    Raises:
        UserError: an item has nothing to compare with.
    """
    check_scorable(dataset)
    volumes: dict[str, list[int]] = {}
    for i, item in enumerate(dataset.items):
        volumes.setdefault(str(item.file), []).append(i)
    table = Table("fastMRI", COLUMNS, remarks="")
    for key, x in images.items():
        scores = [_volume(dataset, x, members) for members in volumes.values()]
        cells = {
            column.key: value_over_images([getattr(score, column.key) for score in scores])
            for column in COLUMNS
        }
        more = {"volumes": {file: vars(score) for file, score in zip(volumes, scores, strict=True)}}
        table.rows.append(Row(key, titles[key], dict(cells), more=more))
    return table


def _volume(dataset: Dataset, x: Tensor, members: Sequence[int]) -> VolumeScores:
    items = [dataset.items[i] for i in members]
    targets = [torch.from_numpy(_target(item)) for item in items]
    shape = targets[0].shape
    images = [_native(dataset, x, i, item, shape) for i, item in zip(members, items, strict=True)]
    peak = items[0].kspace.peak
    return volume_scores(
        torch.stack(images), torch.stack(targets), None if peak is None else peak()
    )


def _target(item: Item) -> Any:
    assert item.kspace.target is not None
    return item.kspace.target()


def _native(dataset: Dataset, x: Tensor, i: int, item: Item, shape: Sequence[int]) -> Tensor:
    """(rows, columns): the root sum of squares of the coils, in the file's units."""
    image, physics = x[i : i + 1], dataset.scan.physics
    if isinstance(physics, Framed):
        image = physics.image_out(image, int(physics.part[i]))
    magnitude = image[0].double().square().sum(0).sqrt()
    assert item.kspace.weight is not None
    native = magnitude * torch.from_numpy(item.kspace.weight).double()
    return center_crop(native, (int(shape[0]), int(shape[1])))


def in_words(table: Table) -> list[str]:
    """What the page says of it."""
    rows = []
    for row in table.rows:
        values = [row.cells[column.key] for column in COLUMNS]
        shown = [f"{getattr(value, 'mean', float('nan')):.4g}" for value in values]
        rows.append(f"{row.title}: NMSE {shown[0]}, PSNR {shown[1]} dB, SSIM {shown[2]}")
    return [f"{CONVENTION}. {'; '.join(rows)}."]
