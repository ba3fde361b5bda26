"""What is known of an operation stands in one entry, and a user can make one."""

import ast
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import phiopt.growth
from phiopt.growth import (
    AlignmentError,
    Facts,
    GrowthMap,
    Mismatch,
    compare,
    grow,
    register_rule,
)
from phiopt.growth.catalogue import OPERATIONS, facts
from tests.growth.nets import randomised

PRODUCT = Facts(product=True, inserted="identity")


NAME = "phiopt_tests::fused_linear"


@torch.library.custom_op(NAME, mutates_args=())
def fused_linear(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    return nn.functional.linear(x, weight, bias)


@fused_linear.register_fake
def _(x, weight, bias=None):
    return x.new_empty(x.shape[0], weight.shape[0])


class Fused(nn.Module):
    """A linear layer as one operation that growth does not know."""

    def __init__(self, old: int, new: int, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(new, old))
        self.bias = nn.Parameter(torch.randn(new)) if bias else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return fused_linear(x, self.weight, self.bias)


def fused_rule(call):
    x, weight = call.pair("x"), call.pair("weight")
    call.contract(x, 1, weight, 1)
    unit = weight.axes[0]
    if call.has("bias"):
        unit = call.join(unit, call.pair("bias").axes[0])
    call.set([x.axes[0], unit], scales=unit)


@pytest.fixture
def entries():
    """The catalogue as it was, after the test."""
    before = dict(OPERATIONS)
    yield
    OPERATIONS.clear()
    OPERATIONS.update(before)


def kept(teacher, student, fill="zero-out"):
    """Whether growth keeps the function, and why not where the map knows."""
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    teacher, student = (randomised(m.double(), i).eval() for i, m in enumerate((teacher, student)))
    growth = GrowthMap.between(teacher, student, inputs=x)
    return compare(teacher, grow(teacher, student, fill, map=growth), growth).max_rel < 1e-9, growth


def net(width, depth=1, bias=True):
    layers = [Fused(4, width, bias), nn.ReLU()]
    for _ in range(depth - 1):
        layers += [Fused(width, width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, 3))


@pytest.mark.usefixtures("entries")
class TestAProductFromOutside:
    @pytest.mark.parametrize("fill", ["zero-out", "net2wider"])
    def test_grows_in_width(self, fill):
        register_rule(NAME, facts=PRODUCT)(fused_rule)
        exact, growth = kept(net(5), net(8), fill)
        assert exact
        assert growth.placements["0.weight"].teacher_shape == (5, 4)

    def test_is_an_identity_where_only_the_student_has_it(self):
        register_rule(NAME, facts=PRODUCT)(fused_rule)
        exact, growth = kept(nn.Sequential(*net(8)), nn.Sequential(*list(net(8, depth=2))))
        assert exact
        assert [layer.how for layer in growth.inserted] == ["identity"]

    def test_is_no_identity_where_nobody_says_so(self):
        register_rule(NAME, facts=Facts(product=True))(fused_rule)
        exact, growth = kept(net(8), net(8, depth=2))
        assert not exact
        assert f"the inserted {NAME} is no identity" in str(growth)

    def test_may_have_its_bias_in_one_model_alone(self):
        register_rule(NAME, facts=PRODUCT)(fused_rule)
        exact, growth = kept(net(5, bias=False), net(8))
        assert exact
        assert [layer.weight for layer in growth.inserted] == ["0.bias"]

    @pytest.mark.parametrize("product", [True, False])
    def test_carries_the_mean_of_units_to_a_norm(self, product):
        register_rule(NAME, facts=replace(PRODUCT, product=product))(fused_rule)

        def normed(width):
            return nn.Sequential(Fused(4, width), nn.LayerNorm(width), nn.Linear(width, 3))

        _, growth = kept(normed(4), normed(6))
        assert ("its mean is kept" in str(growth)) == product

    def test_takes_up_another_constant_factor(self):
        class Scaled(nn.Module):
            def __init__(self, factor):
                super().__init__()
                self.first, self.head, self.factor = Fused(4, 5), nn.Linear(5, 3), factor

            def forward(self, x):
                return self.head((self.factor * self.first(x)).tanh())

        register_rule(NAME, facts=PRODUCT)(fused_rule)
        exact, growth = kept(Scaled(2.0), Scaled(0.5))
        assert exact
        assert "constant factor" not in str(growth)


@pytest.mark.usefixtures("entries")
def test_another_rule_for_a_known_operation_keeps_the_facts():
    calls = []
    known = OPERATIONS["convolution"]

    @register_rule("convolution")
    def rule(call):
        calls.append(call.t.name)
        known.rule(call)

    layers = [nn.Sequential(nn.Conv2d(2, n, 3), nn.Flatten(), nn.Linear(9 * n, 3)) for n in (2, 4)]
    GrowthMap.between(*layers, inputs=torch.zeros(2, 2, 5, 5))
    assert calls == ["convolution"]
    assert facts("convolution") == known.facts


@pytest.mark.usefixtures("entries")
def test_a_rule_is_found_under_the_name_that_is_recorded():
    register_rule("relu_")(fused_rule)
    assert OPERATIONS["relu"].rule is fused_rule
    register_rule("mm")(fused_rule)
    assert facts("mm").general is None  # else the rule of addmm would be asked


@pytest.mark.parametrize(
    ("names", "options", "rule", "kind", "words"),
    [
        ((), {}, fused_rule, ValueError, "names: got none"),
        ((3,), {}, fused_rule, TypeError, "names: got 3, must be the name of an operation"),
        (
            ("mine",),
            {},
            fused_rule,
            ValueError,
            "names: got 'mine', which ATen has not; .*'mylib::mine'",
        ),
        ((NAME,), {"facts": {"product": True}}, fused_rule, TypeError, r"facts: got .*\.Facts"),
        ((NAME,), {}, 3, TypeError, "rule: got 3"),
    ],
)
def test_what_is_no_rule_is_refused(names, options, rule, kind, words):
    with pytest.raises(kind, match=words):
        register_rule(*names, **options)(rule)
    assert not {"mine", NAME} & OPERATIONS.keys()


@torch.library.custom_op("phiopt_tests::relu", mutates_args=())
def folded(x: torch.Tensor) -> torch.Tensor:
    return x + x.flip(1)


@folded.register_fake
def _(x):
    return torch.empty_like(x)


@pytest.mark.usefixtures("entries")
def test_a_custom_operator_has_an_entry_of_its_own():
    """Its name is that of an operation of ATen, whose rule would be wrong."""

    class Folded(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.first, self.last = nn.Linear(4, width), nn.Linear(width, 3)

        def forward(self, x):
            return self.last(folded(self.first(x)))

    with pytest.raises(AlignmentError, match="no rule for operation 'phiopt_tests::relu'"):
        GrowthMap.between(Folded(4), Folded(6))
    known = OPERATIONS["relu"]

    @register_rule("phiopt_tests::relu")
    def rule(call):
        raise Mismatch("halves meet", "Grow by whole halves")

    assert OPERATIONS["relu"] is known
    with pytest.raises(AlignmentError, match=r"halves meet. Grow by whole halves") as caught:
        GrowthMap.between(Folded(4), Folded(6))
    assert caught.value.student.node.name == "phiopt_tests::relu"


@pytest.mark.parametrize(
    ("wrong", "kind", "words"),
    [
        ({"inserted": "identiy"}, ValueError, "inserted: got 'identiy'.* did you mean 'identity'"),
        ({"inserted": True}, TypeError, "inserted: got True"),
        ({"neutral": {"other": "0"}}, TypeError, "neutral.'other'.: got '0'"),
        ({"optional": {"bias"}}, TypeError, "optional: got .* mapping of argument names"),
    ],
)
def test_what_is_no_fact_is_refused(wrong, kind, words):
    with pytest.raises(kind, match=words):
        Facts(**wrong)


@pytest.mark.usefixtures("entries")
def test_a_rule_that_asks_for_an_unknown_argument_is_told_which_there_are():
    register_rule(NAME, facts=PRODUCT)(lambda call: call.pair("input"))
    with pytest.raises(ValueError, match=rf"rule of '{NAME}' asks for 'input'.* x, weight"):
        GrowthMap.between(net(5), net(8), inputs=torch.zeros(2, 4))


def names_compared(tree: ast.AST) -> set[str]:
    """The texts that the name of a node is compared with."""
    actual = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            if any(isinstance(x, ast.Attribute) and x.attr == "name" for x in sides):
                texts = (x for side in sides for x in ast.walk(side) if isinstance(x, ast.Constant))
                actual |= {x.value for x in texts if isinstance(x.value, str)}
    return actual


def test_only_the_rules_spell_the_names_of_operations():
    room = Path(phiopt.growth.__file__).parent
    spelled = {
        f"{file.name}: {name}"
        for file in room.glob("*.py")
        for name in names_compared(ast.parse(file.read_text()))
    }
    assert not spelled
    assert names_compared(ast.parse('x = node.name in {"mm", "add"}')) == {"mm", "add"}
