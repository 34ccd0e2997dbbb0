"""How much memory there is, and how much of it a scan that is read block by block may take."""

from __future__ import annotations

import os

MIB, GIB = 2**20, 2**30


def physical_memory() -> int | None:
    """Bytes of this machine's memory; None where the system does not say."""
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def block_size() -> int:
    """Bytes of a raw scan that are kept at once. Frames that are compressed, or files of their own,
    are read as a whole for every block, so that large blocks save time: a sixteenth of the memory,
    from 64 MiB to 2 GiB."""
    return min(max((physical_memory() or 4 * GIB) // 16, 64 * MIB), 2 * GIB)
