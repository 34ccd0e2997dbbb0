"""In which precision products are computed while f is solved and differentiated."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

import equipoise as eq
from equipoise.equilibrium.precision import exact_products


def rounded() -> bool:
    """Whether torch may round what enters the convolutions of float32 on a GPU."""
    return torch.backends.cudnn.allow_tf32


class Watched(torch.autograd.Function):
    """The identity; notes whether products are rounded, forward and backward."""

    @staticmethod
    def forward(ctx, x, seen):
        ctx.seen = seen
        seen.append(rounded())
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        ctx.seen.append(rounded())
        return g, None


@pytest.fixture(autouse=True)
def torch_rounds():
    """The default of torch."""
    before = rounded()
    torch.backends.cudnn.allow_tf32 = True
    yield
    torch.backends.cudnn.allow_tf32 = before


@pytest.mark.parametrize(
    "gradient", [eq.Implicit(), eq.JacobianFree(), eq.Phantom(2), eq.Unrolled(3)]
)
def test_nothing_is_rounded_while_f_is_solved(gradient):
    seen = []
    w = torch.full((), 0.5, requires_grad=True)
    z = eq.fixed_point(
        lambda z: Watched.apply(w * z, seen) + 1, torch.zeros(2, 3), gradient=gradient
    ).value
    assert seen
    assert not any(seen)
    assert rounded()
    z.sum().backward()
    assert rounded()


def test_nothing_is_rounded_while_the_adjoint_is_solved():
    seen = []
    w = torch.full((), 0.5, requires_grad=True)
    z = eq.fixed_point(lambda z: Watched.apply(w * z, seen) + 1, torch.zeros(2, 3)).value
    seen.clear()
    z.sum().backward()
    # The last product is that of the graph, which is the caller's.
    assert len(seen) > 2
    assert not any(seen[:-1])


def test_a_solve_without_gradient_too():
    seen = []
    eq.equilibrium.solve(lambda z: Watched.apply(0.5 * z, seen) + 1, torch.zeros(2, 3))
    assert seen
    assert not any(seen)


def fails(z):
    assert not rounded()
    raise ZeroDivisionError


def test_the_caller_s_setting_comes_back_from_an_error():
    with pytest.raises(ZeroDivisionError):
        eq.fixed_point(fails, torch.zeros(1, 2))
    assert rounded()


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
def test_matrix_products_likewise(precision):
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        with exact_products():
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(before)


needs_new_names = pytest.mark.skipif(
    not hasattr(torch.backends.cudnn, "conv"), reason="torch before 2.9"
)
NAMES = ("", "cudnn", "cudnn.conv", "cudnn.rnn", "cuda.matmul", "mkldnn.conv", "mkldnn.matmul")


def setting(name):
    owner = torch.backends
    for part in name.split(".") if name else ():
        owner = getattr(owner, part)
    return owner


def settings():
    return {name: setting(name).fp32_precision for name in NAMES}


#: Of torch, as set by the names of 2.9: what was chosen where.
CHOICES = [
    {"": "tf32"},
    {"cudnn": "tf32"},
    {"cudnn.conv": "tf32", "cudnn.rnn": "ieee"},
    {"cudnn.conv": "ieee", "cudnn.rnn": "tf32"},
    {"cuda.matmul": "tf32"},
    {"mkldnn.conv": "bf16"},
    {"mkldnn.matmul": "bf16"},
    {"": "tf32", "cuda.matmul": "ieee"},
    {},
]
CODE = """
import sys, json, os, torch
sys.path.insert(0, sys.argv[1])
from contextlib import nullcontext
from test_precision import CHOICES, settings, setting
from equipoise.equilibrium.precision import exact_products

def seen(chosen, inside_of):
    for name, value in chosen.items():
        setting(name).fp32_precision = value
    before = settings()
    with inside_of():
        inside = settings()
    after = settings()
    setting("").fp32_precision = "ieee"
    return [before, inside, after, settings()]

for chosen in CHOICES:
    for inside_of in (exact_products, nullcontext):
        child = os.fork()
        if not child:
            print(json.dumps(seen(chosen, inside_of)), flush=True)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
"""


@pytest.fixture(scope="module")
def seen():
    """By each choice: settings with ``exact_products``, and without. Each in a process of its own,
    since torch's settings cannot be put back to what nobody ever chose."""
    command = [sys.executable, "-c", CODE, str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return dict(zip(map(str, CHOICES), zip(lines[::2], lines[1::2], strict=True), strict=True))


@needs_new_names
@pytest.mark.parametrize("chosen", CHOICES, ids=str)
def test_whatever_was_set_by_the_names_of_torch_2_9(chosen, seen):
    (before, inside, after, later), (*_, expected) = seen[str(chosen)]
    leaves = [name for name in NAMES if "." in name]
    assert all(inside[name] in ("ieee", "none") for name in leaves)
    assert after == before
    # What nobody chose still follows the setting for all; but convolutions, once anybody has used
    # ``allow_tf32``, torch itself in ``torch.backends.cudnn.flags`` too, do not.
    for name in ("cuda.matmul", "mkldnn.conv", "mkldnn.matmul"):
        assert later[name] == expected[name]


def test_threads_share_it():
    """torch's settings are those of the process: none is put back while another thread solves."""
    entered, may_leave, seen = threading.Event(), threading.Event(), []

    def first():
        with exact_products():
            entered.set()
            may_leave.wait(10)

    def second():
        with exact_products():
            may_leave.set()
            other.join(10)
            seen.append(rounded())

    other, this = threading.Thread(target=first), threading.Thread(target=second)
    other.start()
    entered.wait(10)
    this.start()
    this.join(10)
    assert seen == [False]
    assert rounded()
