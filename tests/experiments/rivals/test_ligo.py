"""LiGO's operators against the formula written out, and what training them does."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch import nn

from experiments.methods import METHODS, mapped
from experiments.models import built
from experiments.rivals.common import batches, task_loss
from experiments.rivals.gradmax import gradmax
from experiments.rivals.ligo import STEPS, Expansion, ligo
from phiopt._modules import state_of
from phiopt.growth import GrowthMap, grow
from tests.experiments.rivals.problems import growth_of


def expansion(growth, seed=0):
    start = METHODS["default"](growth, seed).student
    map = mapped(growth, start)
    return start, map, Expansion(map, state_of(growth.teacher), state_of(start), seed)


def random_like(matrices, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(b.shape, generator=generator, dtype=b.dtype) for b in matrices]


def test_the_one_hot_start_copies_units_and_keeps_the_function(growth):
    start, _, growing = expansion(growth)
    for b in growing.one_hot:
        assert torch.equal(b.sum(1), torch.ones(len(b)).to(b))
        assert ((b == 0) | (b == 1)).all()
        assert b.sum(0).max() - b.sum(0).min() <= 1
    grown = growing.apply(growing.one_hot)
    outputs = torch.func.functional_call(start, grown, (growth.data.x,))
    torch.testing.assert_close(outputs[:, list(growth.classes)], growth.teacher(growth.data.x))


def test_an_mlp_grows_by_the_papers_block_matrices():
    growth = growth_of("mlp")
    start, _, growing = expansion(growth)
    b1, b2 = matrices = random_like(growing.one_hot)
    grown = growing.apply(matrices)
    w1, w2, w3 = (layer.weight for layer in (*growth.teacher.hidden, growth.teacher.head))
    n1, n2 = (1 + one_hot.sum(0) for one_hot in growing.one_hot)
    v2, v3 = w2 / n1, w3 / n2
    block = torch.cat([torch.cat([v2, v2 @ b1.T], 1), torch.cat([b2 @ v2, b2 @ v2 @ b1.T], 1)])
    torch.testing.assert_close(grown["hidden.0.weight"], torch.cat([w1, b1 @ w1]))
    torch.testing.assert_close(grown["hidden.1.weight"], block)
    bias = growth.teacher.hidden[1].bias
    torch.testing.assert_close(grown["hidden.1.bias"], torch.cat([bias, b2 @ bias]))
    torch.testing.assert_close(grown["head.weight"][[1, 3, 4]], torch.cat([v3, v3 @ b2.T], 1))
    assert torch.equal(grown["head.weight"][[0, 2]], start.head.weight[[0, 2]])


def test_channels_expand_over_kernels_and_the_flattened_image():
    growth = growth_of("cnn")
    _, _, growing = expansion(growth)
    b1, b2, _ = matrices = random_like(growing.one_hot)
    grown = growing.apply(matrices)
    n1, n2 = (1 + one_hot.sum(0) for one_hot in growing.one_hot[:2])
    kernel = growth.teacher.convolutions[1].weight / n1[:, None, None]
    r1, r2 = (torch.cat([torch.eye(b.shape[1]).to(b), b]) for b in (b1, b2))
    expected = torch.einsum("ao,oiyx,bi->abyx", r2, kernel, r1)
    torch.testing.assert_close(grown["convolutions.1.weight"], expected)
    # 3 channels of 1 pixel are flattened here: columns by channel.
    hidden = growth.teacher.hidden.weight / n2
    torch.testing.assert_close(grown["hidden.weight"][:4], hidden @ r2.T)


def test_norms_and_their_statistics_grow_with_their_units():
    def normed(width):
        return nn.Sequential(
            nn.Linear(4, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 3)
        ).double()

    teacher, student = built(lambda: normed(5), 0), built(lambda: normed(9), 1)
    with torch.no_grad():
        teacher[1].running_mean.uniform_(-1, 1, generator=torch.Generator().manual_seed(0))
        teacher[1].running_var.uniform_(1, 2, generator=torch.Generator().manual_seed(1))
        teacher[1].num_batches_tracked.fill_(3)
    map = GrowthMap.between(teacher, student)
    start = state_of(grow(teacher, student, "default", map=map))
    growing = Expansion(map, state_of(teacher), start, 0)
    grown = growing.apply(growing.one_hot)
    x = torch.rand(6, 4, dtype=torch.float64)
    outputs = torch.func.functional_call(student.eval(), grown, (x,))
    torch.testing.assert_close(outputs, teacher.eval()(x))
    (b,) = random_like(growing.one_hot)
    variance = growing.apply([b])["1.running_var"]
    torch.testing.assert_close(variance[5:], (b * b) @ teacher[1].running_var)
    assert grown["1.num_batches_tracked"] == 3


def test_a_recurrent_net_grows_gate_by_gate():
    class Rows(nn.Module):
        def __init__(self, hidden):
            super().__init__()
            self.core = nn.LSTM(3, hidden, batch_first=True)
            self.head = nn.Linear(hidden, 3)

        def forward(self, x):
            return self.head(self.core(x)[0][:, -1])

    teacher, student = (built(lambda h=h: Rows(h).double(), h) for h in (4, 6))
    map = GrowthMap.between(teacher, student, inputs=torch.zeros(2, 5, 3).double())
    start = state_of(grow(teacher, student, "default", map=map))
    growing = Expansion(map, state_of(teacher), start, 0)
    grown = growing.apply(growing.one_hot)
    x = torch.rand(6, 5, 3, dtype=torch.float64)
    outputs = torch.func.functional_call(student, grown, (x,))
    torch.testing.assert_close(outputs, teacher(x))


@pytest.mark.slow
def test_training_lowers_the_task_loss_and_stays_within_the_formula(growth):
    start, map, growing = expansion(growth)
    solved = ligo(growth, 0)
    assert solved.gradients == STEPS
    loss, batch = task_loss(growth, start, map), batches(growth, 0)()
    before, after = (
        loss({name: tensors[name] for name, _ in start.named_parameters()}, batch).item()
        for tensors in (growing.apply(growing.one_hot), state_of(solved.student))
    )
    assert after < before
    # The teacher's own block is divided, never moved: only B is trained.
    first = next(iter(map.placements.values()))
    ours = state_of(solved.student)[first.student][: first.teacher_shape[0]]
    assert torch.equal(ours, next(iter(growth.teacher.parameters())))


@pytest.mark.parametrize("rival", [ligo, gradmax])
def test_a_student_of_the_teachers_size_is_refused(rival):
    growth = growth_of("mlp", classes=None)
    same = replace(growth, student=lambda: deepcopy(growth.teacher))
    with pytest.raises(ValueError, match="student: nothing grows"):
        rival(same, 0)


@pytest.mark.slow
def test_until_it_is_trained_one_has_the_copies(growth):
    actual = ligo(growth, 0)
    outputs = actual.start(growth.data.x)[:, list(growth.classes)]
    torch.testing.assert_close(outputs, growth.teacher(growth.data.x))
    assert actual.gradients == STEPS
