"""All that a run needs to go on, in one safetensors file: atomic, checked, nothing unpickled."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..errors import UserError, shortened

FILE = "checkpoint.safetensors"
PREVIOUS = "checkpoint.previous.safetensors"


@dataclass
class Checkpoint:
    """Tensors by name, and what else must be remembered (JSON)."""

    tensors: dict[str, Tensor]
    state: dict[str, Any]


def _digest(tensors: dict[str, Tensor], state: str) -> str:
    digest = hashlib.sha256(state.encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _prepare(path: Path, tensors: dict[str, Tensor], state: dict[str, Any]) -> Path:
    """Writes everything to a temporary file beside ``path``, synced."""
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    text = json.dumps(state, sort_keys=True)
    data = save(tensors, {"state": text, "sha256": _digest(tensors, text)})
    for left_over in path.parent.glob(f"{path.name}.*.tmp"):  # of a process that was killed
        left_over.unlink(missing_ok=True)
    temporary = path.with_name(path.name + f".{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def write(path: Path, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Writes to a temporary file, syncs it and renames it: a reader finds the old file or the new
    one, never half."""
    os.replace(_prepare(path, tensors, state), path)


def read(path: Path) -> Checkpoint:
    """What :func:`write` wrote.

    Raises:
        UserError: the file is cut short, or a bit of it is wrong.
    """
    try:
        with safe_open(str(path), "pt") as f:
            meta = f.metadata() or {}
            tensors = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path}: the checkpoint is cut short or damaged ({error})") from error
    if "state" not in meta or _digest(tensors, meta["state"]) != meta.get("sha256"):
        raise UserError(
            f"{path}: the checkpoint's checksum does not match its contents; it is damaged"
        )
    return Checkpoint(tensors, json.loads(meta["state"]))


def is_whole(path: Path) -> bool:
    """Whether the file is there, and as it was written."""
    try:
        read(path)
    except UserError:
        return False
    return True


def save_latest(folder: Path, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Writes the checkpoint of a run, and keeps the one before it if that is whole: at every moment
    there is one."""
    path, previous = folder / FILE, folder / PREVIOUS
    new = _prepare(path, tensors, state)
    if is_whole(path):  # if it is damaged, the one before stays
        copied = previous.with_name(previous.name + f".{os.getpid()}.tmp")
        shutil.copyfile(path, copied)
        os.replace(copied, previous)
    os.replace(new, path)


def load_latest(folder: Path) -> tuple[Checkpoint | None, str]:
    """The newest checkpoint that is whole (None if there never was one), and a remark if it is not
    the newest.

    Raises:
        UserError: there were checkpoints, and none of them is whole.
    """
    remarks: list[str] = []
    for name in (FILE, PREVIOUS):
        path = folder / name
        if path.exists():
            try:
                return read(path), "; ".join(remarks)
            except UserError as error:
                remarks.append(str(error))
    if remarks:
        problems = "; ".join(
            shortened(remark.removeprefix(f"{folder}/"), 120) for remark in remarks
        )
        raise UserError(
            f"{folder}: no whole checkpoint is left ({problems}), and nothing was changed: restore "
            "one from a backup, or move the folder away to start anew"
        )
    return None, ""


def flatten_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's tensors by name."""
    tensors = {}
    for i, entry in optimizer.state_dict()["state"].items():
        for key, value in entry.items():
            tensor = value if isinstance(value, Tensor) else torch.tensor(value)
            tensors[f"optimizer.{i}.{key}"] = tensor
    return tensors


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Undoes :func:`flatten_optimizer`; hyperparameters stay as they are."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, i, key = name.split(".", 2)
            state.setdefault(int(i), {})[key] = value.clone()
    optimizer.load_state_dict(
        {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
    )
