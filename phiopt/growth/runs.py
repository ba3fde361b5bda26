"""A computation as a tree: the runs of its modules, with the operations and the runs of other modules inside each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from phiopt.growth.catalogue import facts
from phiopt.growth.graph import Node, Trace
from phiopt.growth.optional import acts, kind


@dataclass(frozen=True)
class Computation:
    """A computation: its operations on data, the ids of the data, and the operation that makes each value."""

    trace: Trace
    nodes: list[Node]
    data: set[int]
    producers: Mapping[int, Node]

    @classmethod
    def of(cls, trace: Trace) -> Computation:
        data = {v.id for v in trace.inputs}
        nodes = []
        for node in trace.nodes:
            if any(v.id in data for v in node.inputs):
                data.update(o.id for o in node.outputs)
                nodes.append(node)
        return cls(trace, nodes, data, trace.producers)


@dataclass(frozen=True)
class Form:
    """All of an operation that its likeness to another depends on.

    Attributes:
        kind: The name under which it is compared.
        scope: The student's module inside which it must sit, or sits, if a user names one.
        last: Whether it makes an output of the model.
        reads: For each tensor that it reads, whether it is data.
        before: The shape of the first data that it reads.
        after: The shapes of what it makes.
        omissible: Whether the student may lack it: a sum, since a residual connection may exist only where widths are
            equal, or an operation by which a parameter adds or multiplies, or one that only shifts or flips.
    """

    kind: str
    scope: str | None
    last: bool
    reads: tuple[bool, ...]
    before: tuple[int, ...]
    after: tuple[tuple[int, ...], ...]
    omissible: bool


@dataclass(frozen=True, eq=False)
class Leaf:
    """One operation.

    Attributes:
        node: The operation.
        name: Of its module, seen from the run that holds it.
        form: What its likeness to others depends on.
        number: Equal for operations of equal form.
        operation: The kind of its form.
    """

    node: Node
    name: str
    form: Form
    number: int
    operation: str

    @property
    def nodes(self) -> list[Node]:
        return [self.node]

    @property
    def adds(self) -> bool:
        """Whether it is a sum of two data."""
        return facts(self.form.kind).branches is not None and self.form.reads == (True, True)


@dataclass(eq=False)
class Run:
    """One run of a module: all its operations on data from the first to the last, in order.

    Attributes:
        module: Path of the module.
        name: Its name, seen from the run that holds this one.
        operation: Empty, for it is none.
        items: The operations, and the runs of the modules inside that have parameters or buffers.
        number: Equal for runs whose items have equal names and numbers.
        kinds: How many operations of each kind there are.
        needed: How many of them have to have a counterpart.
        core: The same without those in what the student may lack: residual blocks inside, and runs that are spared.
        adds: Whether one of them is a sum of two data.
        scoped: Whether a user named a module of the other model for one of them.
        spared: Whether the student may lack it, though it is no residual block.
    """

    module: str
    name: str
    operation: str = ""
    items: list[Leaf | Run] = field(default_factory=list)
    number: int = -1
    kinds: Counter[str] = field(default_factory=Counter)
    needed: Counter[str] = field(default_factory=Counter)
    core: Counter[str] = field(default_factory=Counter)
    adds: bool = False
    scoped: bool = False
    spared: bool = False

    @property
    def residual(self) -> bool:
        """Whether it is a residual block, by its shapes and its sum: what it makes is like what it reads."""
        return self.adds and self.keeps_shape

    @property
    def keeps_shape(self) -> bool:
        """Whether what it makes has the shape of what it reads."""
        first: Item = self
        last: Item = self
        while isinstance(first, Run):
            first = first.items[0]
        while isinstance(last, Run):
            last = last.items[-1]
        return last.form.after == (first.form.before,)

    @property
    def nodes(self) -> list[Node]:
        return [node for item in self.items for node in item.nodes]

    def close(self, numbers: dict[object, int], spare: Callable[[Run], bool] | None = None) -> None:
        """Sum up what is inside."""
        form = tuple((item.name, item.number) for item in self.items)
        self.number = numbers.setdefault(form, len(numbers))
        for item in self.items:
            self.adds |= item.adds
            if isinstance(item, Run):
                self.scoped |= item.scoped
                self.kinds.update(item.kinds)
                self.needed.update(item.needed)
                if not (item.residual or item.spared):
                    self.core.update(item.core)
            else:
                self.scoped |= item.form.scope is not None
                self.kinds[item.form.kind] += 1
                if not item.form.omissible:
                    self.needed[item.form.kind] += 1
                    self.core[item.form.kind] += 1
        self.spared = spare is not None and spare(self)


Item = Leaf | Run


def tree(
    side: Computation,
    scope: Callable[[str], str | None],
    numbers: dict[object, int],
    label: Callable[[str], str] | None = None,
    *,
    ends: bool = True,
    spare: Callable[[Run], bool] | None = None,
) -> Run:
    """The run of the root module.

    Args:
        side: The computation.
        scope: The scope of a module; see `Form`.
        numbers: The numbers of all forms met so far. Trees that are compared share it.
        label: Makes a tree without runs inside: the label of a module, seen from the root.
        ends: Whether an output of the model is unlike other values.
        spare: Whether the student may lack a run.
    """
    modules = {""}
    for name in side.trace.used if label is None else ():
        parts = name.split(".")[:-1]
        modules.update(".".join(parts[: i + 1]) for i in range(len(parts)))
    last = {o.id for o in side.trace.outputs if ends}
    open_runs = [Run("", "")]
    for node in side.nodes:
        owner = node.module
        while owner not in modules:
            owner = owner.rpartition(".")[0]
        while not inside(owner, open_runs[-1].module):
            open_runs.pop().close(numbers, spare)
        for name in below(owner, open_runs[-1].module).split(".") if owner else ():
            if name:
                run = Run(f"{open_runs[-1].module}.{name}".lstrip("."), name)
                open_runs[-1].items.append(run)
                open_runs.append(run)
        own = below(node.module, owner) if label is None else label(node.module)
        form = _form(node, side.data, last, scope(node.module))
        leaf = Leaf(node, own, form, numbers.setdefault(form, len(numbers)), form.kind)
        open_runs[-1].items.append(leaf)
    while open_runs:
        root = open_runs.pop()
        root.close(numbers, spare)
    return root


def _form(node: Node, data: set[int], ends: set[int], scope: str | None) -> Form:
    reads, known = tuple(v.id in data for v in node.inputs), facts(node.name)
    return Form(
        kind(node),
        scope,
        any(o.id in ends for o in node.outputs),
        reads if acts(node) else (),
        next(v.shape for v in node.inputs if v.id in data),
        tuple(o.shape for o in node.outputs),
        known.branches is not None or known.reorders or (acts(node) and not all(reads)),
    )


def inside(module: str, outer: str) -> bool:
    """Whether a module is another one or lies inside it, by their paths."""
    return not outer or module == outer or module.startswith(f"{outer}.")


def below(module: str, outer: str) -> str:
    """The path of a module inside ``outer``, seen from there."""
    return module[len(outer) :].lstrip(".")
