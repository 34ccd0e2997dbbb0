"""In which precision products are computed while f is solved and differentiated."""

from __future__ import annotations

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


@pytest.mark.skipif(not hasattr(torch.backends.cudnn, "conv"), reason="torch before 2.9")
@pytest.mark.parametrize("chosen", ["ieee", "tf32"])
def test_what_was_set_by_the_names_of_torch_2_9_comes_back(chosen):
    """Then torch refuses to read ``allow_tf32``."""
    conv, rnn = torch.backends.cudnn.conv, torch.backends.cudnn.rnn
    before = conv.fp32_precision, rnn.fp32_precision
    conv.fp32_precision, rnn.fp32_precision = chosen, "ieee" if chosen == "tf32" else "tf32"
    try:
        with exact_products():
            assert conv.fp32_precision == "ieee"
        assert conv.fp32_precision == chosen
    finally:
        conv.fp32_precision, rnn.fp32_precision = before
