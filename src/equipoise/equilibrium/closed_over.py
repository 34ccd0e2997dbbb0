"""What an application of f was built on: the tensors that f closes over.

Autograd knows the graph that f made, but not where f ends. Two observations together tell it.
While f is applied, every tensor that a torch function is given passes through a
:class:`Recorder`; afterwards :func:`closed_over` walks the graph back from f's output and stops
where it meets something that is older than this application.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

#: An edge of the autograd graph: a node, and which of its outputs.
Edge = tuple[Any, int]


def _tensors(arguments: Any) -> Iterator[Tensor]:
    """The tensors among the arguments of a function, also those in lists (of ``torch.cat``)."""
    for argument in arguments:
        if isinstance(argument, Tensor):
            yield argument
        elif isinstance(argument, (tuple, list)):
            yield from _tensors(argument)


class Recorder(TorchFunctionMode):
    """While active: remembers the tensors older than itself that torch functions are given, and
    that have a history (leaves are found in the graph)."""

    def __init__(self) -> None:
        super().__init__()
        #: Nodes are numbered in the order in which they are made.
        newest = (torch.zeros((), requires_grad=True) * 1).grad_fn
        self.first: int = newest._sequence_nr()  # type: ignore[union-attr]
        self.older: dict[Edge, Tensor] = {}

    def is_older(self, node: Any) -> bool:
        """The node was made before f was applied."""
        return bool(node._sequence_nr() < self.first)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for tensor in _tensors((*args, *kwargs.values())):
            node = tensor.grad_fn
            if node is not None and self.is_older(node):
                self.older[node, tensor.output_nr] = tensor
        return func(*args, **kwargs)


class ClosedOver(NamedTuple):
    """What a graph was built on."""

    tensors: list[Tensor]
    complete: bool  #: every tensor that it was built on is among them


def closed_over(out: Tensor, z: Tensor, recorder: Recorder) -> ClosedOver:
    """The tensors that the graph of ``out`` = f(z) was built on, besides the leaf ``z``.

    A tensor with a history that enters f only inside a custom ``autograd.Function`` is in the
    graph, but no torch function was given it: then the answer is not complete.
    """
    leaves: dict[int, Tensor] = {}
    crossed: dict[Edge, None] = {}
    stack = [out.grad_fn]
    visited = {out.grad_fn}
    while stack:
        for node, number in stack.pop().next_functions:  # type: ignore[union-attr]
            if node is None:
                continue
            if hasattr(node, "variable"):
                leaves[id(node.variable)] = node.variable
            elif recorder.is_older(node):
                crossed[node, number] = None
            elif node not in visited:
                visited.add(node)
                stack.append(node)
    leaves.pop(id(z), None)
    named = [recorder.older[edge] for edge in crossed if edge in recorder.older]
    return ClosedOver([*leaves.values(), *named], len(named) == len(crossed))
