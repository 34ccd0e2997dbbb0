"""NXtomo: raw tomography in NeXus files (HDF5), as Diamond, ESRF and others write it.

Projections, white and dark frames lie in one dataset, and ``image_key`` tells them apart (NeXus
application definition NXtomo).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ...errors import need
from ...imaging.tomography.scanner import ScannerGeometry
from ..item import Item
from .base import Format, check_promised_size, hdf5_has, text_of
from .projections import Projections, degrees_of, millimetres_of, sinograms_of

#: What the numbers of ``image_key`` mean.
PROJECTION, WHITE, DARK = 0, 1, 2


class NXtomo(Format):
    """One item a row of detectors, as of Data Exchange."""

    name = "nxtomo"
    suffixes = (".nxs", ".nx")
    needs = (
        "An NXtomo file holds 'data' (frames × rows × detectors) with 'image_key' beside it, and "
        "'rotation_angle'."
    )

    @property
    def title(self) -> str:
        return "NXtomo"

    def sniff(self, path: Path) -> bool:
        return hdf5_has(path, lambda stored: _find(stored, "image_key") is not None, "hdf5")

    def open(self, path: Path) -> list[Item]:
        items: list[Item] = []
        for file in self.files(path):
            with self.reading(file), need("h5py", "hdf5").File(file) as stored:
                items += self._rows(file, stored)
        return items

    def _rows(self, file: Path, stored: Any) -> list[Item]:
        key = _find(stored, "image_key")
        if key is None:
            raise self.error(file, "no 'image_key'")
        data = key.rpartition("/")[0] + "/data"
        dataset, kinds = stored.get(data), np.asarray(stored[key][()]).ravel()
        if not hasattr(dataset, "ndim") or dataset.ndim != 3 or len(dataset) != len(kinds):
            shape = getattr(dataset, "shape", None)
            raise self.error(
                file, f"'{key}' tells {len(kinds)} frames apart, and '{data}' has the shape {shape}"
            )
        if dataset.dtype.kind not in "biuf":
            raise self.error(file, f"'{data}' holds {dataset.dtype}, not counts")
        if not (dataset.external or dataset.is_virtual):
            check_promised_size(file, dataset.nbytes, compressed=dataset.chunks is not None)
        scan, white, dark = (
            _frames(file, data, dataset, np.flatnonzero(kinds == kind))
            for kind in (PROJECTION, WHITE, DARK)
        )
        if scan is None:
            raise self.error(file, f"'{key}' says that none of {len(kinds)} frames is a projection")
        geometry, notes = self._geometry(file, stored, key, scan, len(kinds))
        return sinograms_of(self, scan, white, dark, geometry, tuple(notes))

    def _geometry(
        self, file: Path, stored: Any, key: str, scan: Projections, frames: int
    ) -> tuple[ScannerGeometry, list[str]]:
        where, angles, notes = _find(stored, "rotation_angle", frames), None, []
        if where is None:
            notes.append(f"{file.name}: says no angles; set physics.angles to what the scanner did")
        else:
            units = text_of(stored[where].attrs.get("units", ""))
            every, note = degrees_of(stored[where][()], units)
            if every is not None:
                angles = tuple(every[list(scan.views or ())].tolist())
                if not np.isfinite(angles).all():
                    raise self.error(file, f"'{where}' holds angles that are NaN or infinite")
            notes += [f"{file.name}: '{where}' {note}"] if note else []
        geometry = ScannerGeometry(
            source=f"{file.name}: {where}" if where else file.name,
            angles=angles,
            detectors=scan.shape[2],
            detector_pitch=millimetres_of(stored.get(key.rpartition("/")[0] + "/x_pixel_size")),
        )
        return geometry, notes


def _find(stored: Any, name: str, count: int | None = None) -> str | None:
    """The path of the first dataset of that name, of ``count`` numbers."""
    found: list[str] = []

    def look(path: str, dataset: Any) -> None:
        is_it = path.rpartition("/")[2] == name and hasattr(dataset, "dtype")
        if is_it and dataset.dtype.kind in "iuf" and dataset.size == (count or dataset.size) > 0:
            found.append(path)

    stored.visititems(look)
    return found[0] if found else None


def _frames(file: Path, key: str, dataset: Any, which: np.ndarray) -> Projections | None:
    if not len(which):
        return None
    shape = (len(which), *dataset.shape[1:])
    views = tuple(int(place) for place in which)
    return Projections(file, file.stat().st_mtime, key, shape, dataset.dtype.itemsize, views=views)
