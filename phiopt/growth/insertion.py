"""Depth growth: operations that only the student has start as the identity."""

from __future__ import annotations

from dataclasses import dataclass, field

from phiopt.growth.carried import Carried, moved
from phiopt.growth.catalogue import facts
from phiopt.growth.closing import Closing, Settings
from phiopt.growth.correspond import Correspondence, times
from phiopt.growth.errors import AlignmentError, Side
from phiopt.growth.flow import Flow
from phiopt.growth.graph import Node, Value
from phiopt.growth.inserted import ON_THE_STREAM, Inserted, constant
from phiopt.growth.optional import operand
from phiopt.growth.taken_off import taken_off

_EPS = ("eps", "epsilon")
"""Arguments that hold what a normalisation adds to its variance."""


@dataclass
class Insertions:
    """The operations that only the student has, with what makes each the identity, or why nothing does."""

    state: Correspondence
    starts: dict[int, Inserted | str | AlignmentError] = field(default_factory=dict)
    """How each operation starts, or why nothing makes it the identity; an error where nothing may stay so."""
    closed: dict[int, Settings] = field(default_factory=dict)
    """What closes each inserted branch, by the operation that adds it."""
    norms: dict[int, Inserted] = field(default_factory=dict)
    """How inserted normalisations of the stream start, by operation."""
    carried: dict[int, Carried] = field(default_factory=dict)
    """The values that hold the coordinates of another in other places, by id."""
    flow: Flow = field(init=False)

    def __post_init__(self) -> None:
        self.flow = Flow(self.state.student)

    def insert(self, node: Node) -> None:
        """Let the output of an operation that only the student has stand for the teacher's value that flows into it."""
        known = facts(node.name)
        if known.moves:
            self._move(node)
            return
        through = [
            v
            for v in node.inputs
            if v.shape == node.outputs[0].shape and self._carried(v) is not None
        ]
        if not through:
            return
        source, branch = through[0], None
        if known.branches is not None:
            source, branch = self._residual(node, through, known.branches)
        self._carry(node, source, node.outputs[0], self._carried(source))
        parameter = operand(self.state.student, node)
        if branch is not None:
            self._close(branch, source, node)
        elif parameter is not None:
            name, value = parameter
            self.starts[id(node)] = Inserted("constant", node.module, name, None, value=value)
        elif id(node) in self.starts:
            pass  # a sum of two streams, whose reason is noted
        elif known.inserted in ("identity", "statistics"):
            eps = next((node.arguments[k] for k in _EPS if k in node.arguments), 0.0)
            self.starts[id(node)] = Inserted(
                "identity", node.module, *self._weight_and_bias(node), float(eps)
            )
        elif known.inserted != "nothing" and not self.flow.repeats(node, source):
            advice = ON_THE_STREAM * self._normalises(node, source)
            self.starts[id(node)] = (
                f"{_where(node)}: the inserted {node.name} is no identity{advice}"
            )

    def _normalises(self, node: Node, stream: Value) -> bool:
        """Whether an operation normalises the stream. If a normalisation made the stream too, note how it starts."""
        if not isinstance(node.arguments.get("normalized_shape"), list):
            return False
        before = self.flow.producers.get(self.flow.passed(stream)[-1].id)
        (weight, bias), eps = (
            self._own(node),
            next(node.arguments[k] for k in _EPS if k in node.arguments),
        )
        made_by = (
            self._own(before) if before is not None and before.name == node.name else (None, None)
        )
        if weight and made_by[0]:
            self.norms[id(node)] = Inserted(
                "stream",
                node.module,
                weight,
                bias,
                float(eps or 0.0),
                made_by=(made_by[0], made_by[1] or ""),
            )
        return True

    def _own(self, node: Node) -> tuple[str | None, str | None]:
        """The names of the weight and of the bias of a normalisation, where they are parameters."""
        values = (node.arguments.get(name) for name in ("weight", "bias"))
        known = self.state.student.tensors
        names = [known.get(v.id) if isinstance(v, Value) else None for v in values]
        return names[0], names[1]

    def _move(self, node: Node) -> None:
        """Follow an operation that moves coordinates. It need not be the identity if another one moves them back."""
        for output, now in zip(
            node.outputs, moved(node, self._carried, self.state.student.constants), strict=False
        ):
            before = next(v for v in node.inputs if self._carried(v) is not None)
            self._carry(node, before, output, now)
            if now.numbers is None:
                for other in self.flow.between(output, now.source):
                    if facts(other.name).moves:
                        self.starts.pop(id(other), None)
            elif now.shape == now.source.shape:
                self.starts[id(node)] = f"{_where(node)}: the inserted {node.name} is no identity"

    def _carry(self, node: Node, before: Value, output: Value, now: Carried | None) -> None:
        """Note that ``output`` carries what ``before`` does. It stands for the same value of the teacher."""
        assert now is not None
        self.flow.source[id(node)] = before
        if now.numbers is not None:
            self.carried[output.id] = now
        if output.shape == now.source.shape:
            twin = self.state.twins[now.source.id]
            self.state.start(twin, output, self.state.pair(twin, now.source))

    def _carried(self, value: Value) -> Carried | None:
        """What the student's ``value`` carries; ``None`` if it carries nothing of the teacher's."""
        whole = Carried(value) if value.id in self.state.twins else None
        return self.carried.get(value.id, whole)

    def check_written(self, node: Node) -> None:
        """Note a parameter that only the student's forward pass changes, as a bound on the norm of rows does."""
        if times(node) is not None:
            return  # the factor is made up for where the parameter is read
        for argument in node.target._schema.arguments:
            value = node.arguments.get(argument.name)
            written = argument.alias_info is not None and argument.alias_info.is_write
            if written and isinstance(value, Value) and value.id in self.state.student.tensors:
                name = self.state.student.tensors[value.id]
                self.state.inexact_reasons[
                    f"{_where(node)}: the student's {node.name} changes {name!r}; the teacher has no such operation"
                ] = None

    def done(self) -> list[Inserted]:
        """All inserted operations. Those that nothing makes the identity are recorded as reasons.

        Raises:
            AlignmentError: A branch of the student's that nothing else closes cannot be closed.
        """
        for start in self.starts.values():
            if isinstance(start, AlignmentError):
                raise start
        self.state.inexact_reasons |= dict.fromkeys(
            x for x in self.starts.values() if isinstance(x, str)
        )
        settings = {k: x for closed in self.closed.values() for k, x in closed.items()}
        shared = sorted(settings.keys() & self.state.by_student().keys())
        if shared:
            raise AlignmentError(
                f"an inserted residual branch cannot start at zero: its last parameter {shared[0]!r} holds the "
                "teacher's values, for the student uses it in several layers",
                "Give both models as many uses of a shared layer, or give the student layers of their own",
                student=Side.of_tensor(shared[0], self.state.student.used[shared[0]]),
            )
        starts = [x for x in self.starts.values() if isinstance(x, Inserted)]
        for name, value in settings.items():
            starts.append(constant(name, value, "constant" if value else "zero"))
        starts += [constant(name, value) for name, value in self.state.added.items()]
        taken = self.state.by_student()
        return starts + [
            start
            for id, start in self.norms.items()
            if id in self.starts and start.weight not in taken
        ]

    def _residual(
        self, node: Node, through: list[Value], branches: tuple[str, str]
    ) -> tuple[Value, Value | None]:
        """The operand of an inserted sum that is the stream, and the branch that must add nothing."""
        a, b = (node.arguments[k] for k in branches)
        if not (isinstance(a, Value) and isinstance(b, Value)):
            return through[0], None
        twins = [self.state.twins[c.source.id] for v in through if (c := self._carried(v))]
        ways = [
            (stream, branch)
            for stream, branch in ((a, b), (b, a))
            if stream in through
            and (
                branch not in through
                or (twins[0] == twins[-1] and self.flow.comes_from(branch, stream))
            )
        ]
        for stream, branch in ways:
            inside = self.flow.only_in(branch, stream, node)
            if Closing(self.state.student, inside).settings(branch) is not None:
                return stream, branch
        for stream, branch in ways:
            if branch not in through or self.flow.reads(branch, stream, [stream]):
                return stream, branch
        for stream, branch in ((a, b), (b, a)):
            if self.flow.is_product(branch, node) and not self.flow.is_product(stream, node):
                return stream, branch
        # The teacher has no such sum: a residual connection may exist only where widths are equal.
        later = max(through, key=lambda v: v.id)
        less = taken_off(self.state.student, later, b if later == a else a)
        self.starts[id(node)] = less or f"{_where(node)}: a sum that the teacher does not have"
        return later, None

    def _close(self, branch: Value, stream: Value, total: Node) -> None:
        """Let the last parameters of the branch that ``total`` adds take values with which it adds nothing."""
        inside = self.flow.only_in(branch, stream, total)
        for node in inside:  # operations of a branch that adds nothing need not be the identity
            self.flow.silent.add(id(node))
            self.starts.pop(id(node), None)
            self.closed.pop(id(node), None)
            for value in node.outputs:
                self.carried.pop(value.id, None)
        if branch.id in self.state.student.constants:
            self.starts[id(total)] = (
                f"{_where(total)}: the student adds a constant that the teacher does not have, as the mask of shifted "
                "windows is; give both models the same"
            )
            return
        settings = Closing(self.state.student, inside).settings(branch)
        ends = {v.id for v in self.state.student.outputs}
        if settings is None and not any(
            o.id in ends or self.flow.readers[o.id] for o in total.outputs
        ):
            return  # it is only written to memory, as the states of a loop are, and what reads that is closed
        if settings is None:
            self.starts[id(total)] = AlignmentError.at(
                None,
                total,
                "an inserted residual branch has no parameter that could silence it",
                "Let the branch end in a layer with parameters, or give both models the same",
            )
            return
        self.closed[id(total)] = settings

    def _parameters(self, node: Node) -> list[str]:
        """The parameters among the arguments, and those of which the arguments are transposes or views."""
        names = []
        for value in node.inputs:
            v = value
            while v.id in self.flow.producers and len(self.flow.producers[v.id].inputs) == 1:
                v = self.flow.producers[v.id].inputs[0]
            if v.id in self.state.student.tensors:
                names.append(self.state.student.tensors[v.id])
        return names

    def _weight_and_bias(self, node: Node) -> tuple[str | None, str | None]:
        """The names of the parameter that multiplies and of the parameter that is added."""
        names = [
            n for n in self._parameters(node) if not n.endswith(("running_mean", "running_var"))
        ]
        if facts(node.name).inserted == "identity":
            names.sort(key=lambda n: -len(self.state.student.used[n]))
        weight, bias, *_ = [*names, None, None]
        return weight, bias


def _where(node: Node) -> str:
    return node.module or "the root module"
