"""The report of `phiopt.check`."""

from __future__ import annotations

from dataclasses import dataclass

from phiopt.derivatives.orders import ORDERS, Order

WHOLE = "(the loss)"


@dataclass(frozen=True)
class LayerReport:
    """The derivatives of one layer.

    Attributes:
        name: The layer's path.
        kind: Its type.
        own: An `Order` for each order of derivative, with PyTorch's own kernels; empty where there is nothing to
            differentiate.
        composite: The same inside `differentiable`.
        kinks: The layer's functions whose first or second derivative jumps.
    """

    name: str
    kind: str
    own: dict[int, Order]
    composite: dict[int, Order]
    kinks: tuple[str, ...] = ()

    @property
    def trusted(self) -> int:
        """The highest order up to which all hold under the composite context."""
        trusted = 1
        for order in ORDERS:
            if order in self.composite and not self.composite[order].holds:
                break
            trusted = order
        return trusted

    @property
    def verdict(self) -> str:
        """How far the layer can be trusted, in words."""
        bad = [order for order in ORDERS if order in self.composite]
        bad = [order for order in bad if not self.composite[order].holds]
        if bad:
            reason = self.composite[bad[0]].reason
            return f"wrong from order {bad[0]} on" if not reason else f"not derivable: {reason}"
        mended = [n for n, order in self.own.items() if not order.holds]
        words = "right" if not mended else f"mended from order {min(mended)} on"
        return f"{words} almost everywhere: {', '.join(self.kinks)}" if self.kinks else words


@dataclass(frozen=True)
class DerivativeReport:
    """Which derivatives of a student can be trusted. ``str`` gives a table.

    Where λ4 > 0 the solver of φ needs order 3, and its adjoints and certificates need order 4.

    Attributes:
        layers: A `LayerReport` for each layer, in the order in which the layers ran.
        whole: The report of the student's mean loss, as a function of the parameters.
    """

    layers: tuple[LayerReport, ...]
    whole: LayerReport

    @property
    def trusted(self) -> int:
        """The highest order that holds for the loss and in every layer: 1 to 4."""
        return min(row.trusted for row in (*self.layers, self.whole))

    @property
    def refused(self) -> tuple[str, ...]:
        """Paths of the layers that have no right third derivative."""
        return tuple(row.name for row in self.layers if row.trusted < 3)

    @property
    def kinked(self) -> tuple[str, ...]:
        """Paths of the layers whose derivatives exist only almost everywhere."""
        return tuple(row.name for row in self.layers if row.kinks)

    def __str__(self) -> str:
        head = ["layer", "type", *(f"own {n}" for n in ORDERS), *(f"phiopt {n}" for n in ORDERS)]
        rows = [[*head, ""], *(_cells(row) for row in (*self.layers, self.whole))]
        widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
        lines = [
            "  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[-1]])
            for row in rows
        ]
        note = "Relative errors against finite differences in float64, by order of derivative."
        return "\n".join([note, *(line.rstrip() for line in lines)])


def _cells(row: LayerReport) -> list[str]:
    cells = [row.name, row.kind]
    for orders in (row.own, row.composite):
        cells += [_cell(orders.get(order)) for order in ORDERS]
    return [*cells, row.verdict]


def _cell(order: Order | None) -> str:
    if order is None:
        return "-"
    return "raises" if order.reason else f"{order.error:.0e}"
