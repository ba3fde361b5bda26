"""The networks that are grown."""

import pytest
import torch

from experiments.models import CNN, LSTM, MLP, built


@pytest.mark.parametrize(
    "model",
    [
        MLP(16, (5, 4), 3),
        MLP(16, (), 3),
        CNN(1, 4, (2, 3), 5, 3),
        CNN(1, 4, (2,), 5, 3),
        LSTM(4, 5, 3),
    ],
)
def test_images_become_logits(model):
    assert model(torch.rand(6, 1, 4, 4)).shape == (6, 3)


def test_an_mlp_is_its_formula():
    model = MLP(4, (3,), 2)
    x = torch.rand(5, 1, 2, 2)
    hidden = (x.reshape(5, 4) @ model.hidden[0].weight.T + model.hidden[0].bias).clamp(min=0)
    torch.testing.assert_close(model(x), hidden @ model.head.weight.T + model.head.bias)


def test_a_relu_head_is_the_positive_part_and_says_so():
    model = MLP(4, (3,), 2, relu_head=True)
    with torch.no_grad():
        model.head.weight.copy_(torch.tensor([[1.0, 1.0, 1.0], [-1.0, -1.0, -1.0]]))
        model.head.bias.copy_(torch.tensor([0.5, -0.5]))  # one logit above zero, the other below
    x = torch.randn(50, 1, 2, 2)
    plain = MLP(4, (3,), 2)
    plain.load_state_dict(model.state_dict())
    assert (plain(x) < 0).any()
    assert torch.equal(model(x), plain(x).clamp(min=0))
    assert "relu_head=True" in str(model)
    assert "relu_head" not in str(plain)


def test_an_lstm_reads_the_rows_in_turn_with_all_their_channels():
    model = LSTM(6, 5, 2)
    x = torch.rand(4, 2, 7, 3)
    state = None
    for row in range(7):
        features = torch.cat([x[:, 0, row], x[:, 1, row]], 1).unsqueeze(1)
        out, state = model.lstm(features, state)
    torch.testing.assert_close(model(x), model.head(out[:, 0]))


def test_built_is_a_function_of_the_seed_and_leaves_the_global_generator():
    before = torch.random.get_rng_state()
    first, again, other = (built(lambda: MLP(4, (3,), 2), seed) for seed in (0, 0, 1))
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(first.head.weight, again.head.weight)
    assert not torch.equal(first.head.weight, other.head.weight)
