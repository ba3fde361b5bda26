"""GradMax's directions against a dense SVD, and the gradient that they promise."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from experiments.methods import extended, mapped
from experiments.models import built
from experiments.rivals.common import batches, task_loss
from experiments.rivals.gradmax import BIAS, SCALE, gradmax
from experiments.rivals.layers import grown_layers, silenced
from phiopt._modules import state_of
from tests.experiments.rivals.problems import growth_of


def auxiliary(growth):
    """M = E[∂L/∂z_{l+1} h_{l-1}ᵀ] of both hidden layers of the teacher MLP, written out."""
    (w1, w2), head = growth.teacher.hidden, growth.teacher.head
    x, y = growth.data.x.flatten(1), growth.data.y
    h1 = torch.relu(w1(x))
    z2 = w2(h1)
    logits = head(torch.relu(z2))
    by_z2, by_logits = torch.autograd.grad(F.cross_entropy(logits, y), (z2, logits))
    return by_z2.T @ x, by_logits.T @ h1


def new_columns(student, growth):
    """Outgoing weights of the new units of both layers, a row each."""
    classes = list(growth.classes)
    return student.hidden[1].weight[:5, 6:].T, student.head.weight[classes, 5:].T


def test_outgoing_weights_are_the_top_left_singular_vectors_of_m():
    growth = growth_of("mlp")
    # Inputs of both signs and some size, so that units are off on some examples and M has rank 5.
    x = 8 * (growth.data.x - 0.5)
    growth = replace(growth, data=growth.data._replace(x=x))
    student = gradmax(growth, 0).student
    for rows, m, k, old in zip(
        new_columns(student, growth),
        auxiliary(growth),
        (3, 2),
        (growth.teacher.hidden[1].weight, student.head.weight[:, :5]),
        strict=True,
    ):
        length = SCALE * old.norm(dim=0).mean()
        torch.testing.assert_close(rows.norm(dim=1), length.expand(len(rows)))
        left = torch.linalg.svd(m)[0].T[:k]
        # Three probes find M's third vector of five as its values (.12, .03) and the iterations let them.
        alignment = (rows[:k] / length @ left.T).abs()
        torch.testing.assert_close(alignment, torch.eye(k).to(alignment), atol=1e-6, rtol=0)


def test_units_beyond_the_rank_of_m_lie_in_its_span():
    growth = growth_of("mlp")
    rows = new_columns(gradmax(growth, 0).student, growth)[1]
    # Derivatives by the logits sum to zero: rank 2 for 3 classes, and 7 new units.
    left = torch.linalg.svd(auxiliary(growth)[1])[0][:, :2]
    assert len(rows) == 7
    torch.testing.assert_close(rows @ left @ left.T, rows, atol=1e-4, rtol=0)
    assert len(torch.unique((rows / rows.norm(dim=1, keepdim=True)).round(decimals=6), dim=0)) == 7


def test_new_units_are_silent_and_the_function_nearly_kept(growth):
    student = gradmax(growth, 0).student
    outputs = student(growth.data.x)[:, list(growth.classes)]
    torch.testing.assert_close(outputs, growth.teacher(growth.data.x), atol=20 * BIAS, rtol=0)
    first = next(p for p in student.parameters() if p.ndim > 1)
    old = next(p for p in growth.teacher.parameters() if p.ndim > 1)
    assert not first[len(old) :].any()


def incoming_gradient(growth, student):
    """Squared norm of the gradient in the incoming weights of all new units."""
    map = mapped(growth, student)
    params = {n: p.detach().requires_grad_() for n, p in student.named_parameters()}
    loss = task_loss(growth, student, map)(params, batches(growth, 0)())
    gradient = dict(zip(params, torch.autograd.grad(loss, list(params.values())), strict=True))
    layers = grown_layers(map.correspondence, params)
    return sum(
        gradient[name].flatten()[index[layer.new]].square().sum().item()
        for layer in layers
        for name, index in layer.incoming.items()
    )


@pytest.mark.slow
def test_no_random_directions_of_the_same_length_have_a_larger_gradient(growth):
    student = gradmax(growth, 0).student
    ours = incoming_gradient(growth, student)
    map = mapped(growth, student)
    layers = grown_layers(map.correspondence, state_of(student))
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        other = {name: value.detach().clone() for name, value in student.named_parameters()}
        for layer in layers:
            sizes = [index.shape[1] for index in layer.outgoing.values()]
            flat = [other[name].flatten()[i[layer.new]] for name, i in layer.outgoing.items()]
            length = torch.cat(flat, 1).norm(dim=1, keepdim=True)
            random = torch.randn(len(layer.new), sum(sizes), generator=generator).double()
            rows = length * F.normalize(random)
            for (name, index), piece in zip(
                layer.outgoing.items(), rows.split(sizes, 1), strict=True
            ):
                other[name].view(-1)[index[layer.new]] = piece
        random_student = growth.student()
        random_student.load_state_dict(other)
        assert incoming_gradient(growth, random_student) < ours


def test_the_weights_of_a_layers_units_are_found_through_flattening():
    growth = growth_of("cnn")
    student = extended(growth, 0, "default")
    state = mapped(growth, student).correspondence
    params = silenced(student, state, BIAS)
    second = grown_layers(state, params)[1]
    assert second.new.tolist() == [3, 4]
    assert {name: tuple(i.shape) for name, i in second.incoming.items()} == {
        "convolutions.1.weight": (5, 2 * 9)
    }
    assert {name: tuple(i.shape) for name, i in second.outgoing.items()} == {
        "hidden.weight": (5, 4)
    }
    kernel = student.convolutions[1].weight
    picked = kernel.flatten()[second.incoming["convolutions.1.weight"]]
    torch.testing.assert_close(picked, kernel[:, :2].flatten(1))
    assert not params["convolutions.1.weight"][3:].any()
    assert torch.equal(
        params["convolutions.1.bias"][3:], torch.full((2,), BIAS, dtype=torch.float64)
    )
    assert torch.equal(params["head.weight"][0, :4], student.head.weight[0, :4])
    assert not params["head.weight"][0, 4:].any()


def test_a_recurrent_layer_has_all_its_gates():
    class Rows(nn.Module):
        def __init__(self, hidden, classes):
            super().__init__()
            self.core = nn.LSTM(4, hidden, batch_first=True)
            self.head = nn.Linear(hidden, classes)

        def forward(self, x):
            return self.head(self.core(x[:, 0])[0][:, -1])

    growth = replace(
        growth_of("mlp"),
        teacher=built(lambda: Rows(3, 3).double(), 0),
        student=lambda: Rows(5, 5).double(),
    )
    grown = gradmax(growth, 0)
    outputs = grown.student(growth.data.x)[:, list(growth.classes)]
    torch.testing.assert_close(outputs, growth.teacher(growth.data.x), atol=20 * BIAS, rtol=0)
    for gate in grown.student.core.weight_ih_l0.unflatten(0, (4, 5)):
        assert not gate[3:].any()
    assert grown.student.core.weight_hh_l0.unflatten(0, (4, 5))[:, :3, 3:].any()


def test_a_layer_without_a_gradient_is_named():
    def net(width, classes):
        layers = nn.Linear(16, width, bias=False), nn.ReLU(), nn.Linear(width, classes)
        return nn.Sequential(nn.Flatten(), *layers).double()

    growth = replace(
        growth_of("mlp"), teacher=built(lambda: net(2, 3), 0), student=lambda: net(4, 5)
    )
    with pytest.raises(ValueError, match=r"no gradient reaches new units read by 3\.weight"):
        gradmax(growth, 0)
