"""What a format is, and what all of them share: listing files, saying what is wrong, writing."""

from __future__ import annotations

import re
import struct
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import LONGEST_MESSAGE, UserError, need, shortened
from ...machine import is_empty
from ..choice import Choice
from ..item import Item

#: What HDF5 files begin with.
HDF5_MARK = b"\x89HDF\r\n\x1a\n"
#: How many times smaller than its contents a file can be: deflate's limit is 1,032.
LARGEST_COMPRESSION = 1100

CUT_SHORT = "the file is cut short: copy it again, or leave it out"
DAMAGED = "the file is damaged: copy or export it again, or leave it out"
LACKS_A_FIELD = "a field that it needs is missing or empty: export it again with its whole header"


class Format(ABC):
    """One family of files: how to know them, what they hold, and how to write them.

    A format of your own is a subclass and one line that registers it::

        class Raw(Format):
            name = "raw"
            suffixes = (".raw",)
            needs = "A .raw file holds 256 × 256 numbers of type float32."

            def open(self, path):
                return [self._item(file) for file in self.files(path)]

            def _item(self, file):
                return Item(file.stem, file, (256, 256), partial(self._read, file), format="raw")

            def _read(self, file):
                with self.reading(file):
                    return np.fromfile(file, np.float32).reshape(256, 256)

        register(Raw())
    """

    name: str  #: of the format, in messages and in :attr:`Item.format`
    suffixes: tuple[str, ...]  #: of its files, in small letters
    needs: str  #: one sentence: what its files must hold; all its errors end in it
    #: Whether its arrays may be images as well as measurements, so that ``data.kind`` decides.
    may_hold_either: bool = False
    #: Whether its files are known by their content in a folder, whatever their suffix.
    any_suffix: bool = False
    #: Whether :meth:`write` has a form of its own for what was reconstructed of its k-space.
    writes_of_kspace: bool = False
    #: The options of :class:`Choice` that :meth:`open_chosen` knows.
    chooses: tuple[str, ...] = ()

    def choosing(self, variable: str) -> Format:
        """The same for one of several arrays in a file.

        Raises:
            UserError: its files have no names for what they hold.
        """
        raise UserError(
            f"data.variable={variable}: {self.title} files hold no variables by name; leave it out"
        )

    def sniff(self, path: Path) -> bool:
        """Whether the file's first bytes are those of this format. It must be quick."""
        return False

    @abstractmethod
    def open(self, path: Path) -> list[Item]:
        """What a file, or a folder of such files, holds. It reads headers; arrays are read when
        :attr:`Item.read` is called.

        Raises:
            UserError: a file cannot be read.
        """

    def open_chosen(self, path: Path, choice: Choice) -> list[Item]:
        """The same, of what is wanted alone; a format that names options in ``chooses`` has it."""
        return self.open(path)

    def write(
        self, items: Sequence[Item], images: Sequence[np.ndarray], folder: Path
    ) -> list[Path]:
        """Writes images (H, W), float64 in the units of their items, to an empty folder; one
        ``.npy`` each, unless a format knows better."""
        return write_npy(items, images, folder)

    # --------------------------------------------------------------------- for those who open

    def files(self, path: Path) -> list[Path]:
        """The file itself, or those files of a folder that are of this format, sorted; of its
        folders, if the folder itself has no file that can be read."""
        if path.is_file():
            return [path]
        return [file for file in readable_files(path) if self.owns(file)]

    def owns(self, file: Path) -> bool:
        """Whether a file of a folder is of this format, by its suffix or its content."""
        has_suffix = file.name.lower().endswith(self.suffixes)
        return has_suffix or ((self.any_suffix or has_known_suffix(file)) and self.sniff(file))

    def error(self, file: Path, problem: str) -> UserError:
        """An error of one paragraph, which ends in what this format needs."""
        where = shown_path(file)
        room = LONGEST_MESSAGE - len(where) - len(self.needs) - len(": . ")
        return UserError(f"{where}: {shortened(problem, room)}. {self.needs}")

    @contextmanager
    def reading(self, file: Path) -> Iterator[None]:
        """What goes wrong in here is the file's fault; the error's own kind says what mends it."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            detail = f"{type(error).__name__}: {shortened(str(error) or 'no detail', 150)}"
            problem = f"cannot be read as {self.title} ({detail}); {self.remedy(error)}"
            raise self.error(file, problem) from error

    @property
    def title(self) -> str:
        """What the format is called in a sentence."""
        return self.name.upper()

    def remedy(self, error: Exception) -> str:
        """What mends this kind of error."""
        return remedy_by_kind(error)


def remedy_by_kind(error: Exception) -> str:
    """What mends an error of this kind, whatever the format. Its text is never looked at."""
    for kinds, remedy in _REMEDIES:
        if isinstance(error, kinds):
            return remedy
    return DAMAGED


_REMEDIES: tuple[tuple[tuple[type[Exception], ...], str], ...] = (
    ((PermissionError,), "it may not be read by you: change its permissions"),
    (
        (FileNotFoundError,),
        "it was there before and is gone: leave it where it is while it is read",
    ),
    ((MemoryError,), "it does not fit into memory: split it into smaller files"),
    ((EOFError,), CUT_SHORT),
    ((zlib.error, struct.error), DAMAGED),
    ((KeyError, AttributeError), LACKS_A_FIELD),
    ((NotImplementedError,), "it uses a variant that cannot be read: export it uncompressed"),
    ((OSError,), "the file may be cut short or damaged: copy it again, or leave it out"),
)


# ------------------------------------------------------------------------------------- files

_KNOWN_SUFFIXES: set[str] = set()
#: What tells the formats that are known by content alone.
_KNOWN_CONTENTS: list[Callable[[Path], bool]] = []


def know_suffixes(suffixes: Iterable[str]) -> None:
    """Files that end in these are looked at; called when a format is registered."""
    _KNOWN_SUFFIXES.update(suffixes)


def know_content(sniff: Callable[[Path], bool]) -> None:
    """Files of which this is true are looked at, whatever they end in."""
    _KNOWN_CONTENTS.append(sniff)


def has_known_suffix(file: Path) -> bool:
    return file.name.lower().endswith(tuple(_KNOWN_SUFFIXES))


def visible_files(folder: Path) -> list[Path]:
    """The files of a folder whose names do not begin with a dot, in the order of their names;
    without the picture that stands beside reconstructions of ours."""
    files = in_order(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    if folder / "report.json" in files:
        files = [file for file in files if file.name != "preview.png"]
    return files


def in_order(paths: Iterable[Path]) -> list[Path]:
    """By their names, numbers in which count as numbers: view_2 comes before view_10."""

    def key(path: Path) -> tuple[list[str | int], str]:
        parts = re.split(r"([0-9]+)", path.name)
        return [int(part) if k % 2 else part for k, part in enumerate(parts)], path.name

    return sorted(paths, key=key)


def readable_files(folder: Path) -> list[Path]:
    """The files of a folder; or, if none of them can be read, those of all folders in it."""
    here = visible_files(folder)
    if any(is_readable(file) for file in here):
        return here
    inside = in_order(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    return [*here, *(file for each in inside for file in all_files(each))]


def all_files(folder: Path) -> list[Path]:
    """Those of a folder and of all folders in it."""
    files = visible_files(folder)
    for inside in in_order(p for p in folder.iterdir() if p.is_dir()):
        if not inside.name.startswith(".") and not inside.is_symlink():
            files += all_files(inside)
    return files


def is_readable(file: Path) -> bool:
    """Whether a file of a folder may be of some format."""
    return has_known_suffix(file) or any(knows(file) for knows in _KNOWN_CONTENTS)


def text_of(value: Any) -> str:
    """A string of an HDF5 file, however it is stored."""
    if isinstance(value, np.ndarray):
        value = value.ravel()[0] if value.size else ""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def is_hdf5(path: Path) -> bool:
    """Whether the file begins as HDF5 files do."""
    return first_bytes(path, len(HDF5_MARK)) == HDF5_MARK


def hdf5_has(path: Path, what: Callable[[Any], bool], extra: str) -> bool:
    """Whether the file is HDF5, can be read, and ``what`` holds of it.

    Args:
        path: of the file.
        what: is asked about the open file.
        extra: of the package, which installs h5py for this format.
    """
    if not is_hdf5(path):
        return False
    try:
        with need("h5py", extra).File(path) as stored:
            return what(stored)
    except (OSError, RuntimeError, KeyError, ValueError, UserError):
        return False


def first_bytes(path: Path, count: int) -> bytes:
    """The beginning of a file; nothing, where it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(count)
    except OSError:
        return b""


def check_promised_size(file: Path, promised: int, compressed: bool = False) -> None:
    """Notices a header that promises more than the file can hold, before memory is set aside.

    Raises:
        EOFError: it does.
    """
    size = file.stat().st_size
    if promised > size * (LARGEST_COMPRESSION if compressed else 1):
        raise EOFError(f"its header promises {promised} bytes of data, the file has {size} in all")


def new_folder(out: str | Path) -> Path:
    """The path, if nothing can be lost there.

    Raises:
        UserError: it exists and is not empty.
    """
    out = Path(out)
    if out.exists() and (out.is_file() or not is_empty(out)):
        raise UserError(
            f"{out}: exists and is not empty; nothing was written. Name a new folder, or empty "
            "this one"
        )
    return out


def by_file(
    items: Sequence[Item],
    images: Sequence[np.ndarray],
    folder: Path,
    suffixes: tuple[str, ...],
    otherwise: str,
) -> Iterator[tuple[list[Item], list[np.ndarray], Path]]:
    """The items of each file that they came from, their images, and the file to write.

    It is called as the original, with the suffix ``otherwise`` where that has none of
    ``suffixes``; of several of one name, the later ones are called by their folders or numbers.
    """
    taken: set[Path] = set()
    for file in dict.fromkeys(item.file for item in items):
        places = [n for n, item in enumerate(items) if item.file == file]
        is_known = file.name.lower().endswith(suffixes)
        name = file.name if is_known else f"{file.name.rsplit('.', 1)[0]}{otherwise}"
        path = folder / name
        if path in taken:
            path = folder / f"{file.parent.name}_{name}"
        number = 2
        while path in taken:
            path = folder / f"{number}_{name}"
            number += 1
        taken.add(path)
        yield [items[n] for n in places], [images[n] for n in places], path


def in_units_of_coils(item: Item, image: np.ndarray) -> np.ndarray:
    """The magnitude (rows, columns) that a model made of whitened k-space, as the root sum of
    squares of the coils in the units of the file; other images as they are."""
    weight = item.kspace.weight
    return image if weight is None else image * weight


def write_npy(items: Sequence[Item], images: Sequence[np.ndarray], folder: Path) -> list[Path]:
    """One ``.npy`` an image, in float32."""
    paths = [folder / f"{item.name}.npy" for item in items]
    for path, item, image in zip(paths, items, images, strict=True):
        np.save(path, in_units_of_coils(item, image).astype(np.float32))
    return paths


# ---------------------------------------------------------------------------------- messages


def shown_path(path: Path) -> str:
    """The path as it stands in messages: its end alone, where it is very long."""
    text = str(path)
    return text if len(text) <= 160 else f"…{text[-159:]}"


#: What an array of angles is called.
IS_ANGLE = re.compile(r"angle|theta|phi|degree|rotation", re.IGNORECASE)


def left_out(file: Path, names: Sequence[str]) -> str:
    """What is said of arrays beside those that are read; angles among them are not used, since
    ``physics.angles`` says which they are."""
    words = (
        f"{file.name}: {listed(names)} left out: no array of rows and columns (data.variable names "
        "the one that is read)"
    )
    angles = [name for name in names if IS_ANGLE.search(name)]
    if angles:
        words += (
            f"; views are where physics.angles says, not where {listed(angles)} does: equipoise "
            f"init {file.name} writes a configuration with these angles"
        )
    return words


def listed(names: Iterable[object], most: int = 5) -> str:
    """The first few names, and how many more there are."""
    texts = [shortened(str(name), 60) for name in names]
    if len(texts) <= most:
        return ", ".join(texts)
    return f"{', '.join(texts[:most])} and {len(texts) - most} more"
