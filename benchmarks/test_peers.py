"""The same derivatives written otherwise: naively with torch.func, and with the field's libraries.

None of the three libraries' Hessian-vector products can be differentiated (curvlinops and PyHessian
give constants, BackPACK with detach=False loses the third derivative), so the four terms cannot be
composed from them; their products stand beside ours.

One table, in plain gradients of the same batch; a peer that is not installed is left out.

python -m pytest benchmarks/test_peers.py -s --benchmark-json=peers.json
"""

import importlib.util
import warnings

import pytest
import torch
from torch.func import functional_call, grad, jvp
from torch.nn.functional import cross_entropy

from benchmarks.conftest import interleaved
from benchmarks.test_gradient_cost import cnn, plain_gradient, setting
from phiopt.derivatives import linearise
from phiopt.objective import CurvatureTerm, Frobenius, Stream

ROUNDS = 7


class Case:
    """The CNN, its four terms on one sample, and one probe."""

    def __init__(self):
        self.module = cnn()
        self.objective, self.params, self.sample = setting(self.module)
        self.names = list(self.params)
        self.probe = {name: p[0] for name, p in self.sample.draws["curvature"].probes.items()}
        self.noisy = self.objective.term("noise").neighbourhood.perturb(
            self.sample.inputs, self.sample.draws["noise"]
        )[0]

    def loss(self, params, inputs):
        return cross_entropy(functional_call(self.module, params, (inputs,)), self.sample.targets)

    def rest(self, params):
        """The terms other than the curvature."""
        u = self.objective.term("proximity").teacher
        proximity = sum(((u[n] - params[n]) ** 2).sum() for n in u)
        return self.loss(params, self.sample.inputs) + proximity + self.loss(params, self.noisy)

    def leaves(self):
        return list(self.module.parameters())


def four_terms(case, curvature=None):
    """A gradient on the case's own sample, or as many steps as the curvature takes turns."""
    objective, samples = case.objective, [case.sample]
    if curvature is not None:
        objective = objective.with_term(CurvatureTerm(curvature))
        steps = range(curvature.every)
        samples = [objective.sample(case.params, None, 0, Stream.STEP, i) for i in steps]

    def gradients():
        with torch.no_grad():
            gradients = [objective.value_and_grad(case.params, sample)[2] for sample in samples]
        return gradients[0]

    return gradients


def naive(case):
    """Each term as it is read, forward mode over reverse mode, one gradient of the sum."""

    def total(w):
        product = jvp(grad(lambda p: case.loss(p, case.sample.inputs)), (w,), (case.probe,))[1]
        curvature = sum((h * h).sum() for h in product.values())
        return 0.25 * (case.rest(w) + curvature)

    return lambda: grad(total)(case.params)


def product_of_phiopt(case):
    def product():
        with torch.no_grad():
            return linearise(lambda w: case.loss(w, case.sample.inputs), case.params).hvp(
                case.probe
            )

    return product


def product_of_backpack(case):
    from backpack.hessianfree.hvp import hessian_vector_product

    def product():
        leaves = case.leaves()
        loss = cross_entropy(case.module(case.sample.inputs), case.sample.targets)
        products = hessian_vector_product(loss, leaves, list(case.probe.values()))
        return dict(zip(case.names, products, strict=True))

    return product


def product_of_pyhessian(case):
    from pyhessian.utils import hessian_vector_product

    def product():
        leaves = case.leaves()
        loss = cross_entropy(case.module(case.sample.inputs), case.sample.targets)
        gradients = torch.autograd.grad(loss, leaves, create_graph=True)
        products = hessian_vector_product(gradients, leaves, list(case.probe.values()))
        return dict(zip(case.names, products, strict=True))

    return product


def product_of_curvlinops(case):
    from curvlinops import HessianLinearOperator

    operator = HessianLinearOperator(
        case.module,
        torch.nn.CrossEntropyLoss(),
        case.leaves(),
        [(case.sample.inputs, case.sample.targets)],
        check_deterministic=False,
    )
    v = list(case.probe.values())
    return lambda: dict(zip(case.names, operator @ v, strict=True))


def installed(peers):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations of other people's imports
        return {n: make for n, make in peers.items() if importlib.util.find_spec(n)}


def table(case, calls, benchmark):
    """Ratios to a plain gradient; the others' results must be those of the first."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = {"a plain gradient": plain_gradient(case.module, case.sample)}
        seconds = interleaved(plain | calls, rounds=ROUNDS)
    ratios = {name: s / seconds["a plain gradient"] for name, s in seconds.items()}
    print(*(f"\n{name:40s} {ratio:5.2f} x" for name, ratio in ratios.items()))
    benchmark.extra_info |= ratios
    benchmark.pedantic(next(iter(calls.values())), rounds=1)
    return ratios


def agree(first, second):
    for name in first:
        scale = first[name].abs().max()
        torch.testing.assert_close(second[name], first[name], rtol=1e-3, atol=1e-4 * float(scale))


def test_four_terms(benchmark):
    case = Case()
    whole = {"phiopt, exact": four_terms(case), "torch.func, naive": naive(case)}
    reference = whole["phiopt, exact"]()
    for call in whole.values():
        agree(reference, call())
    cheap = {
        "phiopt, two parts of an eighth (default)": four_terms(case, Frobenius()),
        "phiopt, the same every 4th step (four)": four_terms(case, Frobenius(every=4)),
    }
    ratios = table(case, whole | cheap, benchmark)
    for name in whole:
        assert ratios["phiopt, exact"] <= 1.05 * ratios[name]


def test_hessian_vector_product(benchmark):
    case = Case()
    peers = installed(
        {
            "curvlinops": product_of_curvlinops,
            "backpack": product_of_backpack,
            "pyhessian": product_of_pyhessian,
        }
    )
    if not peers:
        pytest.skip("no peer is installed")
    calls = {"phiopt": product_of_phiopt(case)} | {n: make(case) for n, make in peers.items()}
    reference = calls["phiopt"]()
    for call in calls.values():
        agree(reference, call())
    table(case, calls, benchmark)
