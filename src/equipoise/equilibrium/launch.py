"""On a GPU: all that an evaluation of f launches, launched at once."""

from __future__ import annotations

import threading

import torch
from torch import Tensor

from .flat import FilledIn, FlatMap


def launches_at_once(F: FlatMap, z: Tensor) -> bool:
    """Whether evaluations at states like z (B, N) can be recorded: on a GPU, for a map that says of
    itself that it ``launches_alone``, which means that each evaluation launches the same kernels
    and does nothing beside."""
    alone = bool(getattr(F.f, "launches_alone", False))
    return alone and z.is_cuda and F.autocast_dtype is None


class OneLaunch(FlatMap):
    """The same map on states of one shape, recorded when it is first called and replayed after
    that (a CUDA graph).

    An evaluation is some hundreds of small kernels, and launching each takes longer than running it
    (``results/gpu.md``). What is recorded is for the whole batch, so samples that are done ride
    along.
    """

    def __init__(self, F: FlatMap):
        vars(self).update(vars(F))
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, z: Tensor) -> Tensor:
        if self.graph is None:
            self.graph = self._record(z)
        self.z.copy_(z)
        self.graph.replay()
        return self.fz.clone()

    def _record(self, z: Tensor) -> torch.cuda.CUDAGraph:
        self.z = z.clone()  #: what is read
        recorded, stream = _own.recorded, _own.stream(z.device)
        graph = torch.cuda.CUDAGraph()
        here = torch.cuda.current_stream(z.device)
        stream.wait_stream(here)
        with torch.cuda.stream(stream):
            pool = recorded[z.device].pool() if z.device in recorded else None
            graph.capture_begin(pool=pool, capture_error_mode="thread_local")
            try:
                self.fz = super().__call__(self.z)  #: what is written
            finally:
                graph.capture_end()
        here.wait_stream(stream)
        recorded[z.device] = graph
        return graph

    def restrict(self, index: Tensor, values: Tensor) -> FilledIn:
        return FilledIn(self, index, values)


class _OfAThread(threading.local):
    """What recordings of one thread share: each is read before the thread replays another."""

    def __init__(self) -> None:
        #: The last one of each device, which keeps the memory that all of them take in turn.
        self.recorded: dict[torch.device, torch.cuda.CUDAGraph] = {}
        self._streams: dict[torch.device, torch.cuda.Stream] = {}

    def stream(self, device: torch.device) -> torch.cuda.Stream:
        """Where evaluations are recorded."""
        if device not in self._streams:
            self._streams[device] = torch.cuda.Stream(device)
        return self._streams[device]


_own = _OfAThread()
