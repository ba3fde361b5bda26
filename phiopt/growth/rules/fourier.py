"""Discrete Fourier transforms. They mix all coordinates of an axis, and leave the other axes as they are."""

import numpy as np

from phiopt.growth.axes import fixed
from phiopt.growth.call import Call
from phiopt.growth.catalogue import Facts
from phiopt.growth.operations import register_rule
from phiopt.growth.pairs import Axis


@register_rule("_fft_c2c", "_fft_r2c", "_fft_c2r", facts=Facts(linear=True))
def transform(call: Call) -> None:
    """A transform of an axis that grows has other frequencies. Its first coordinates are taken for the teacher's."""
    x = call.pair("self")
    axes = list(x.axes)
    for dim in call.dims("dim", len(axes)):
        if axes[dim].moved:
            call.inexact("a Fourier transform over a widened axis")
        size = call.out()[dim]
        if size != axes[dim].size:  # of a real signal only half of the frequencies are kept
            axes[dim] = Axis(fixed(np.arange(size[0]), size[1], external=True))
    call.set(axes)


@register_rule("view_as_real", "view_as_complex", facts=Facts(linear=True))
def parts(call: Call) -> None:
    """Real and imaginary parts are a last axis of two coordinates."""
    x = call.pair("self")
    axes = x.axes[:-1] if "complex" in call.t.name else (*x.axes, Axis(fixed(np.arange(2), 2)))
    call.set(axes)
