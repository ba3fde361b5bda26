"""The check of a grown student on numbers leaves all as it was, sees what zeros hide, and says what proves nothing."""

import random
from threading import Thread

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)

from phiopt._modules import without_process_wide_hooks
from phiopt.growth import AlignmentError, GrowthMap, grow
from tests.growth.nets import randomised

INPUTS = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))


class Noisy(nn.Module):
    """A net that draws from all generators in training, and looks at values on its way."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.norm, self.last = (
            nn.Linear(4, width),
            nn.BatchNorm1d(width),
            nn.Linear(width, 3),
        )
        self.seen = None

    def forward(self, x):
        noise = random.random() + np.random.random() + torch.rand(1)  # noqa: NPY002
        self.seen = self.norm(self.first(x))
        return self.last(F.dropout(self.seen.relu(), 0.5, self.training)) + (
            noise if self.training else 0
        )


class Gated(nn.Module):
    """A residual branch behind a gate, with an option inside."""

    def __init__(self, width: int, slope: float, gate: float) -> None:
        super().__init__()
        self.first, self.inner, self.last = (
            nn.Linear(4, width),
            nn.Linear(width, width),
            nn.Linear(width, 3),
        )
        self.slope, self.gate = nn.LeakyReLU(slope), nn.Parameter(torch.tensor(gate))

    def forward(self, x):
        x = self.first(x).tanh()
        return self.last(x + self.gate * self.slope(self.inner(x)))


def unsaid(teacher, student, inputs=INPUTS):
    """The map without its remarks, as if no rule had compared the options."""
    growth = GrowthMap.between(teacher, student, inputs=inputs)
    growth.inexact_reasons = ()
    return growth


def states():
    name, keys, *rest = np.random.get_state()  # noqa: NPY002
    return random.getstate(), (name, keys.tolist(), *rest), torch.get_rng_state().tolist()


def picture(model):
    """All that a check could have changed."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {
        "values": {n: (id(x), x.detach().clone().tolist()) for n, x in tensors.items()},
        "grads": {n: (id(x.grad), x.requires_grad, x._version) for n, x in tensors.items()},
        "modes": [part.training for part in model.modules()],
        "hooks": [list(part._forward_hooks) for part in model.modules()],
        "kept": [sorted(vars(part)) for part in model.modules()],
        "seen": id(model.seen),
    }


@pytest.mark.parametrize("verify", [None, True])
@pytest.mark.parametrize("inputs", [INPUTS, None])
def test_models_generators_and_hooks_are_left_as_they_were(verify, inputs):
    teacher, student = Noisy(6), Noisy(9)
    calls = []
    for model in (teacher, student):
        model(INPUTS).sum().backward()
        model.first.weight.requires_grad_(False)
        model.norm.eval()
        model.norm.register_forward_hook(lambda *_: calls.append("own"))
        model.norm.register_forward_pre_hook(lambda *_: calls.append("own, before"))
    everywhere = (
        register_module_forward_hook(lambda *_: calls.append("process-wide")),
        register_module_forward_pre_hook(lambda *_: calls.append("process-wide, before")),
    )
    before = picture(teacher), picture(student), states()
    try:
        grow(teacher, student, "net2wider", inputs=inputs, verify=verify)
        assert (picture(teacher), picture(student), states()) == before
        assert not calls
        student.norm(torch.zeros(2, 9))  # all of them are there still
        assert len(calls) == 4
    finally:
        for hook in everywhere:
            hook.remove()


def test_process_wide_hooks_see_other_threads_meanwhile():
    calls = []
    hook = register_module_forward_hook(lambda module, *_: calls.append(module))
    ours, theirs = nn.Identity(), nn.Identity()
    try:
        with without_process_wide_hooks():
            thread = Thread(target=theirs, args=(INPUTS,))
            thread.start()
            thread.join()
            ours(INPUTS)
            hook.remove()
        ours(INPUTS)
    finally:
        hook.remove()
    assert calls == [theirs]


@pytest.mark.parametrize("gate", [0.0, 1e-6, 0.5])
def test_what_a_zero_gate_hides_is_compared_too(gate):
    teacher, student = (randomised(Gated(w, 0.1, gate), w) for w in (6, 9))
    teacher.gate.data.fill_(gate)
    grow(teacher, student, "zero-out", map=unsaid(teacher, student))
    student.slope.negative_slope = 0.2
    with pytest.raises(AlignmentError, match=r"leaky_relu in 'slope'"):
        grow(teacher, student, "zero-out", map=unsaid(teacher, student))


@pytest.mark.parametrize("bias", [0.0, 1.0])
def test_what_a_zero_head_hides_is_compared_too(bias):
    teacher, student = (randomised(Gated(w, 0.1, 1.0), w) for w in (6, 9))
    teacher.last.weight.data.zero_()
    teacher.last.bias.data.fill_(bias)
    grow(teacher, student, "zero-out", map=unsaid(teacher, student))
    student.slope.negative_slope = 0.2
    with pytest.raises(AlignmentError, match=r"leaky_relu in 'slope'"):
        grow(teacher, student, "zero-out", map=unsaid(teacher, student))


def test_zero_biases_cost_no_further_pass():
    passes = []

    class Counted(nn.Sequential):
        def forward(self, x):
            if x.device.type != "meta":
                passes.append(len(x))
            return super().forward(x)

    teacher, student = (
        randomised(Counted(nn.Linear(4, w), nn.BatchNorm1d(w), nn.ReLU(), nn.Linear(w, 3)), w)
        for w in (6, 9)
    )
    for name, parameter in teacher.named_parameters():
        if name.endswith("bias"):
            parameter.data.zero_()
    grow(teacher, student, "zero-out", inputs=INPUTS)
    assert len(passes) == 4


class Made(nn.Module):
    """A net whose outputs are made of its numbers by a function."""

    def __init__(self, width: int, function, inside=torch.tanh) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, width), nn.Linear(width, 3)
        self.function, self.inside = function, inside

    def forward(self, x):
        return self.function(self.last(self.inside(self.first(x))))


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (lambda y: y * torch.nan, "not finite"),
        (lambda y: y.abs() + torch.inf, "not finite"),
        (lambda y: torch.zeros_like(y), "zero"),
    ],
)
def test_what_proves_nothing_is_said_in_a_warning(function, why):
    teacher, student = (randomised(Made(w, function), w) for w in (6, 9))
    with pytest.warns(UserWarning, match=f"not verified: .*{why}"):
        grow(teacher, student, "zero-out", map=unsaid(teacher, student))
    grow(teacher, student, "zero-out", map=unsaid(teacher, student), verify=False)


def dropped(y):
    return F.dropout(y, 0.5, training=True)


def test_a_forward_pass_that_draws_is_verified_where_both_models_draw_the_same():
    teacher, student = (randomised(Made(w, dropped), w) for w in (6, 9))
    grow(teacher, student, "zero-out", map=unsaid(teacher, student))  # without a warning
    teacher, student = (randomised(Made(w, torch.tanh, dropped), w) for w in (6, 9))
    with pytest.warns(UserWarning, match=r"not verified: a forward pass draws random numbers"):
        grow(teacher, student, "zero-out", map=unsaid(teacher, student))


@pytest.mark.parametrize("number", [torch.nan, torch.inf])
def test_outputs_that_are_finite_in_the_teacher_alone_are_an_error(number):
    teacher = randomised(Made(6, lambda y: y + 1.0))
    student = randomised(Made(9, lambda y: y + number), 1)
    with pytest.raises(AlignmentError, match="does not keep the function"):
        grow(teacher, student, "zero-out", map=unsaid(teacher, student))


def test_dropout_and_noise_of_training_are_no_matter():
    teacher, student = Noisy(6).train(), Noisy(9).train()
    grow(teacher, student, "zero-out", inputs=INPUTS)  # without a warning


@pytest.mark.parametrize("size", [1, 2, 7])
def test_any_number_of_examples_will_do(size):
    teacher, student = (randomised(Gated(w, 0.1, 1.0), w) for w in (6, 9))
    student.slope.negative_slope = 0.2
    growth = unsaid(teacher, student, INPUTS[:1].repeat(size, 1))
    with pytest.raises(AlignmentError, match="'slope'"):
        grow(teacher, student, "zero-out", map=growth, inputs=INPUTS[:size])
