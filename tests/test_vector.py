import torch

from phiopt._vector import to_params, to_vector


def test_there_and_back_whatever_the_layout():
    whole = torch.arange(12.0).view(3, 4)
    params = {
        "turned": whole.T,
        "expanded": torch.arange(2.0).expand(3, 2),
        "number": torch.tensor(5.0),
        "none": torch.empty(0, 2),
    }
    vector = to_vector(params)
    assert vector.shape == (12 + 6 + 1,)
    back = to_params(vector, params)
    assert list(back) == list(params)
    for name, value in params.items():
        assert torch.equal(back[name], value)
