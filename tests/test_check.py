import pytest
import torch
from torch import nn

from phiopt.check import check
from tests.cases import generator, randn
from tests.functions import Forgetful


def data(*shape, classes=3):
    return randn(8, *shape), torch.randint(classes, (8,), generator=generator(1))


class Functional(nn.Module):
    """A forward that calls functions, and writes to a buffer."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 3)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return self.last(torch.relu(self.first(x)))


class Attending(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.TransformerEncoderLayer(4, 2, 6, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.encoder(x)[:, -1])


class Wrong(nn.Module):
    def forward(self, x):
        return Forgetful.apply(x)


def seeded(module):
    """Every parameter from a generator of its own."""
    with torch.no_grad():
        for i, p in enumerate(module.parameters()):
            p.copy_(0.5 * torch.randn(p.shape, generator=generator(i)))
    return module


def test_layers_that_need_mending_and_that_do_not_are_in_the_table():
    net = seeded(
        nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Tanh(), nn.Dropout(), nn.Linear(6, 3))
    )
    report = check(net, data(4))
    assert [row.name for row in report.layers] == list("01234")
    assert [row.kind for row in report.layers][1] == "LayerNorm"
    assert report.trusted == 4
    assert report.refused == report.kinked == ()
    norm = report.layers[1]
    assert norm.own[2].holds
    assert not norm.own[3].holds
    assert norm.verdict == "mended from order 3 on"
    assert report.layers[0].verdict == "right"
    assert not report.whole.own[3].holds
    assert report.whole.composite[4].holds
    lines = str(report).splitlines()
    assert lines[1].startswith("layer")
    assert lines[1].endswith("phiopt 4")
    assert "LayerNorm" in lines[3]
    assert lines[3].endswith("mended from order 3 on")
    assert lines[-1].startswith("(the loss)")


def test_kinks_are_named():
    net = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 3)
    )
    report = check(seeded(net), data(1, 6, 6))
    assert report.kinked == ("1", "2")
    assert report.layers[2].verdict == "right almost everywhere: max_pool2d"
    assert report.whole.kinks == ("max_pool2d", "relu")
    assert report.trusted == 4


def test_a_functional_forward_is_seen_through():
    report = check(seeded(Functional()), data(4))
    assert [row.name for row in report.layers] == ["first", "last"]
    assert report.whole.verdict == "right almost everywhere: relu"


def test_attention_raises_by_itself_and_is_mended():
    report = check(seeded(Attending()), data(3, 4))
    attention = report.layers[0]
    assert attention.kind == "MultiheadAttention"
    assert attention.own[2].reason
    assert attention.verdict == "mended from order 2 on"
    assert report.trusted == 4


def test_a_wrong_backward_is_found():
    report = check(seeded(nn.Sequential(nn.Linear(4, 3), Wrong())), data(4))
    assert report.refused == ("1",)
    assert report.layers[1].verdict == "wrong from order 2 on"
    assert report.layers[0].trusted == 4
    assert report.trusted == 1


def test_a_lift_and_another_loss():
    net = seeded(nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 1)))
    x, y = randn(8, 4), randn(8, seed=2)
    report = check(
        net,
        (x, y),
        lift=lambda x: torch.cat([x, x[:, :2]], 1),
        loss=lambda outputs, y: (outputs[:, 0] - y) ** 2,
    )
    assert report.trusted == 4


def test_nothing_is_modified():
    net = Functional().train()
    before = {n: t.clone() for n, t in net.state_dict().items()}
    x, y = data(4)
    state, copy = torch.get_rng_state(), x.clone()
    check(net, (x, y))
    assert all(torch.equal(t, before[n]) for n, t in net.state_dict().items())
    assert net.training
    assert net.first.weight.dtype == torch.float32
    assert torch.equal(x, copy)
    assert torch.equal(torch.get_rng_state(), state)
    assert not net.first._forward_hooks


def test_bad_arguments_are_named():
    with pytest.raises(TypeError, match="student: got 'net', must be"):
        check("net", data(4))
    with pytest.raises(ValueError, match="must give one loss per example"):
        check(nn.Linear(4, 3), data(4), loss=nn.CrossEntropyLoss())
    net = nn.Linear(4, 3)
    with pytest.raises(ValueError, match=r"data: labels from 1 to 2, must lie in 0 \.\.\. 0"):
        check(nn.Linear(4, 1), data(4))
    with pytest.raises(TypeError, match=r"data: targets are torch\.float64, must be"):
        check(net, (randn(8, 4), randn(8)))
    with pytest.raises(TypeError, match="student: its forward returned tuple"):
        check(nn.LSTM(4, 3), (randn(8, 2, 4), data(4)[1]))
    with pytest.raises(ValueError, match="examples: got 0"):
        check(net, data(4), examples=0)
    with pytest.raises(TypeError, match=r"lift: got 3, which has no __call__\(\)"):
        check(net, data(4), lift=3)
    with pytest.raises(TypeError, match="loss: got 'ce'"):
        check(net, data(4), loss="ce")
    with pytest.raises(
        TypeError, match="loss: got the class CrossEntropyLoss, must be an instance"
    ):
        check(net, data(4), loss=nn.CrossEntropyLoss)
    with pytest.raises(TypeError, match="seed: got 'a'"):
        check(net, data(4), seed="a")


def test_the_row_of_padding_is_no_error():
    """PyTorch holds it still, which finite differences would not."""
    torch.manual_seed(0)
    student = nn.Sequential(nn.Embedding(5, 3, padding_idx=0), nn.Flatten(), nn.Linear(6, 3))
    tokens = torch.tensor([[0, 1], [2, 3], [4, 0], [1, 1]])
    report = check(student, (tokens, torch.tensor([0, 1, 2, 0])))
    assert report.trusted == 4
    assert student[0].padding_idx == 0
