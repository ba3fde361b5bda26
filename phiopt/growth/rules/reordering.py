"""Operations that put coordinates in another order: shifts, flips and shuffles."""

import math

from phiopt.growth.axes import Mismatch, spread
from phiopt.growth.call import Call
from phiopt.growth.catalogue import Facts
from phiopt.growth.index_map import leaves
from phiopt.growth.operations import register_rule
from phiopt.growth.options import difference
from phiopt.growth.pairs import Pair
from phiopt.growth.rules.joining import replace_axis
from phiopt.growth.rules.views import factored, in_order, joined

ROLL = Facts(linear=True, moves=True, reorders=True, meanings={"dims": in_order("dims")})


@register_rule("roll", facts=ROLL)
@register_rule("flip", facts=Facts(moves=True, reorders=True))
def reorder(call: Call) -> None:
    """A shift or a flip of an axis that neither grows nor has another order, or of positions of resized images."""
    x = call.pair("self")
    moved = [d for d in call.dims("dims", len(x.axes)) if x.axes[d].moved]
    if moved and all(
        spread(leaf) for d in moved for leaf in leaves(x.axes[d].term) if not leaf.same
    ):
        if call.t.name == "roll":
            call.both("shifts")
        call.inexact(f"{call.t.name} of the positions of images of another size")
        call.set(x.axes, scales=x.scales)
        return
    for dim in call.dims("dims", len(x.axes)):
        if x.axes[dim].moved:
            raise Mismatch(f"{call.t.name} along axis {dim}, which grows or is reordered")
    _compare_shifts(call, x)
    call.set(x.axes, scales=x.scales)


def _compare_shifts(call: Call, x: Pair) -> None:
    """Record other shifts, as those of other windows. A shift once around is none. Without axes, all coordinates shift
    as one axis.
    """
    if call.t.name != "roll":
        return
    shifts = call.both("shifts")
    dims = call.dims("dims", len(x.axes)) if call.t.arguments["dims"] else []
    sizes = [x.axes[d].size[0] for d in dims] or [math.prod(a.size[0] for a in x.axes)]
    if any((t - s) % max(n, 1) for t, s, n in zip(*shifts, sizes, strict=True)):
        call.inexact(difference(call.t, call.s, "shifts").text)


@register_rule("channel_shuffle", "native_channel_shuffle", facts=Facts(moves=True))
def channel_shuffle(call: Call) -> None:
    x = call.pair("self")
    groups = call.both("groups")
    channel = x.axes[1]
    rest = channel.size[0] // groups[0], channel.size[1] // groups[1]
    replace_axis(call, x, 1, joined(factored(channel, [groups, rest])[::-1]))


@register_rule("pixel_shuffle", facts=Facts(moves=True))
def pixel_shuffle(call: Call) -> None:
    x = call.pair("self")
    r = call.const("upscale_factor")
    *lead, c, h, w = x.axes
    c, rh, rw = factored(c, [(c.size[0] // r**2, c.size[1] // r**2), (r, r), (r, r)])
    call.set([*lead, c, joined([h, rh]), joined([w, rw])])


@register_rule("pixel_unshuffle", facts=Facts(moves=True))
def pixel_unshuffle(call: Call) -> None:
    x = call.pair("self")
    r = call.const("downscale_factor")
    *lead, c, h, w = x.axes
    h, rh = factored(h, [(h.size[0] // r, h.size[1] // r), (r, r)])
    w, rw = factored(w, [(w.size[0] // r, w.size[1] // r), (r, r)])
    call.set([*lead, joined([c, rh, rw]), h, w])
