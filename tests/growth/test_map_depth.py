"""Maps to deeper students, by the names of modules or by correspondence, and what a map says of itself."""

import pytest
import torch
from torch import nn

from phiopt.growth import AlignmentError, GrowthMap, register_rule
from phiopt.growth.catalogue import OPERATIONS
from tests.growth.nets import (
    check_injective,
    mlp,
    state,
)


def test_extract_is_differentiable():
    teacher, student = mlp(4, 8, 3), mlp(4, 16, 5)
    growth = GrowthMap.between(teacher, student)
    w = {n: v.requires_grad_() for n, v in state(student).items()}
    total = sum((v**2).sum() for v in growth.extract(w).values())
    grads = torch.autograd.grad(total, list(w.values()))
    for (name, mask), grad in zip(growth.mask().items(), grads, strict=True):
        assert torch.equal(grad != 0, mask & (w[name] != 0))


def test_deeper_students_match_by_module_names():
    def net(depth):
        return nn.ModuleDict(
            {"stem": nn.Linear(4, 6), **{f"b{i}": nn.Linear(6, 6) for i in range(depth)}}
        )

    class Deep(nn.Module):
        def __init__(self, depth):
            super().__init__()
            self.parts = net(depth)
            self.head = nn.Linear(6, 3)

        def forward(self, x):
            x = self.parts["stem"](x).relu()
            for name, block in self.parts.items():
                if name != "stem":
                    x = x + block(x).relu()
            return self.head(x)

    growth = GrowthMap.between(Deep(1), Deep(3))
    assert {p.student for p in growth.placements.values()} >= {"parts.b0.weight", "head.weight"}
    assert set(growth.fresh) == {f"parts.b{i}.{k}" for i in (1, 2) for k in ("weight", "bias")}
    assert {i.how for i in growth.inserted} == {"zero"}


def test_a_plain_stack_may_grow_in_depth_and_width():
    growth = GrowthMap.between(mlp(4, 8, 3), mlp(4, 12, 12, 5))
    assert growth.placements["2.weight"].student == "4.weight"
    assert [i.how for i in growth.inserted] == ["identity"]


def test_correspondence_overrules_names():
    class Two(nn.Module):
        def __init__(self, *names):
            super().__init__()
            for name in names:
                setattr(self, name, nn.Linear(4, 4))
            self.names = names

        def forward(self, x):
            for name in self.names:
                x = x + getattr(self, name)(x).relu()
            return x

    growth = GrowthMap.between(Two("a"), Two("a", "b"), correspondence={"a": "b"})
    assert growth.placements["a.weight"].student == "b.weight"
    assert set(growth.fresh) == {"a.weight", "a.bias"}


def test_embed_names_what_it_does_not_know():
    teacher, student = mlp(4, 8, 3), mlp(4, 16, 5)
    growth = GrowthMap.between(teacher, student)
    with pytest.raises(ValueError, match=r"u has 'nothing'"):
        growth.embed({"nothing": torch.zeros(1)}, into=state(student))
    with pytest.raises(ValueError, match=r"u\['0.bias'\] has shape \(7,\)"):
        growth.embed({"0.bias": torch.zeros(7)}, into=state(student))
    with pytest.raises(ValueError, match=r"into lacks '0.bias'"):
        growth.embed({"0.bias": torch.zeros(8)}, into={})


def test_an_operation_without_a_rule_is_named_and_can_be_taught():
    @torch.library.custom_op("phiopt_tests::halve", mutates_args=())
    def halve(x: torch.Tensor) -> torch.Tensor:
        return x / 2

    @halve.register_fake
    def _(x):
        return torch.empty_like(x)

    class Halved(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.a, self.b = nn.Linear(4, width), nn.Linear(width, 3)

        def forward(self, x):
            return self.b(halve(self.a(x)))

    with pytest.raises(
        AlignmentError, match=r"no rule for operation 'phiopt_tests::halve'.*register_rule"
    ):
        GrowthMap.between(Halved(3), Halved(5))

    @register_rule("phiopt_tests::halve")
    def rule(call):
        call.set(call.pair("x").axes)

    try:
        check_injective(GrowthMap.between(Halved(3), Halved(5)), Halved(3), Halved(5))
    finally:
        del OPERATIONS["phiopt_tests::halve"]


def test_the_table_names_every_tensor_and_its_share():
    text = str(GrowthMap.between(mlp(4, 8, 3), mlp(4, 16, 5)))
    assert "0.weight" in text
    assert "[0:8, 0:4]" in text
    assert "50.0 %" in text
    assert text.count("\n") >= 6


def test_a_sum_that_the_student_does_not_have_is_remarked():
    class Optional(nn.Module):
        def __init__(self, a, b):
            super().__init__()
            self.one, self.two, self.head = nn.Linear(4, a), nn.Linear(a, b), nn.Linear(b, 3)

        def forward(self, x):
            x = self.one(x).relu()
            y = self.two(x)
            return self.head(x + y if x.shape == y.shape else y)

    growth = GrowthMap.between(Optional(6, 6), Optional(8, 10))
    assert growth.inexact_reasons == ("the root module: a sum that the student does not have",)
    check_injective(growth, Optional(6, 6), Optional(8, 10))
    other = GrowthMap.between(Optional(4, 6), Optional(8, 8))
    assert "a sum that the teacher does not have" in str(other)
