"""How noisy the estimators of the curvature and of the noise term are; prints tables.

python -m benchmarks.estimators [--tables steps parts ...] [--draws 1000] [--seed 0]

An MLP 64-16-16-5, with tanh and with ReLU, fitted to the digits 0 to 4; its Hessian H on all of them,
of 1397 rows, is written down. A seed has nets and draws of its own. Figures are statistics of
independent draws ± a standard error, by a jackknife over groups of them; those without one are exact.
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from typing import get_args

import torch
from torch import Generator, Tensor

from benchmarks.fitted import BATCH, EXACT, NETS, Net, fitted, jackknife
from phiopt._types import Params
from phiopt._vector import to_vector
from phiopt.objective import (
    CurvatureTerm,
    Frobenius,
    Spectral,
    Task,
    Uniform,
)
from phiopt.objective.importance import importance_sample, leverage_scores
from phiopt.objective.microbatched import MicrobatchedCurvature
from phiopt.objective.passes import gradient_of_sum
from phiopt.objective.probes import Distribution, draw_probes
from phiopt.objective.sampling import Sampling

PART = BATCH // 8
STEPS = {
    "`Frobenius(batch=None)`": EXACT,
    "`Frobenius(batch=None, probes=4)`": Frobenius(batch=None, probes=4),
    "two disjoint eighths drawn blindly": None,
    "`Frobenius()`": Frobenius(),
    "`Frobenius(probes=4)`": Frobenius(probes=4),
    "`Frobenius(batch=0.5)`": Frobenius(batch=0.5),
    '`Frobenius(batch=None, matrix="gauss-newton")`': replace(EXACT, matrix="gauss-newton"),
}
PARTS = [(PART, PART), (2 * PART, PART), (PART, 2 * PART), (BATCH, PART), (PART, BATCH)]
"""Examples in A, whose product is differentiated, and in B."""


# Steps: the curvature and its gradient in a step of a stochastic solver.


def step(net: Net, curvature: Frobenius | None, seed: int, number: int) -> tuple[Tensor, Tensor]:
    """The estimate, and its gradient up to a factor."""
    if curvature is None:
        batch, probe = net.batch(seed, number)  # in random order
        return by_parts(net, batch.part(0, PART), batch.part(PART, 2 * PART), probe)
    objective = net.objective.with_term(CurvatureTerm(curvature))
    sample = net.sample(curvature, seed, number)
    _, terms, gradient = objective.value_and_grad(net.params, sample)
    return terms["curvature"], to_vector(gradient)


def by_parts(net: Net, a: Task, b: Task, probe: Params) -> tuple[Tensor, Tensor]:
    """⟨H_A v, H_B v⟩ and 2 ⟨∂H_A v, H_B v⟩."""
    pair = MicrobatchedCurvature(EXACT.linearise, (a, b), net.params, probe, size=None)
    terms, gradient = gradient_of_sum(pair.passes(1.0), net.params)
    return terms["curvature"], to_vector(gradient)


def noise_to_signal(gradients: Tensor) -> Tensor:
    """√(E‖g − Eg‖²) / ‖Eg‖, with ‖Eg‖² from products of different draws, which have no bias."""
    n, squares = len(gradients), gradients.square().sum()
    signal = (gradients.sum(0).square().sum() - squares) / (n * (n - 1))
    return ((squares / n - signal) / signal).sqrt()


def steps(draws: int, seed: int) -> Iterator[list[str]]:
    yield ["step", *(f"mean / ‖H‖², {n}" for n in NETS), *(f"noise / signal, {n}" for n in NETS)]
    for name, curvature in STEPS.items():
        means, noises = [], []
        for net in (fitted(n, seed) for n in NETS):
            steps = [step(net, curvature, seed, number) for number in range(draws)]
            estimates, gradients = map(torch.stack, zip(*steps, strict=True))
            means.append(jackknife(Tensor.mean, estimates / net.hessian.square().sum()))
            noises.append(jackknife(noise_to_signal, gradients))
        yield [name, *means, *noises]


# Parts: which of A and B makes the noise, at a given batch and probe.


def parts(draws: int, seed: int) -> Iterator[list[str]]:
    yield ["examples in A, in B, of 128", *(f"noise / signal, {n}" for n in NETS)]
    for sizes in PARTS:
        samples = [noise_of_parts(fitted(n, seed), sizes, draws, seed) for n in NETS]
        # Of all batches and probes together: the root of the noise's mean square by the signal's.
        ratios = [jackknife(lambda d: (d[:, 0].mean() / d[:, 1].mean()).sqrt(), f) for f in samples]
        yield [", ".join(map(str, sizes)), *ratios]


def noise_of_parts(net: Net, sizes: tuple[int, int], draws: int, seed: int) -> Tensor:
    """E‖g − Eg‖² and ‖Eg‖² at each of a tenth as many batches and probes: ``(draws / 10, 2)``.

    E is over ten choices of A and B there; Eg is the gradient of ‖H v‖² on the batch.
    """
    generator = Generator().manual_seed(seed)
    rows = []
    for number in range(draws // 10):
        batch, probe = net.batch(seed, number)
        scores = leverage_scores(batch, batch.outputs(net.params))
        _, exact = by_parts(net, batch, batch, probe)
        noise = []
        for _ in range(10):
            offsets = torch.rand(2, generator=generator, dtype=torch.float64)
            a, b = (
                batch if size == BATCH else importance_sample(batch, scores, size, offset)
                for size, offset in zip(sizes, offsets, strict=True)
            )
            noise.append((by_parts(net, a, b, probe)[1] - exact).square().sum())
        rows.append(torch.stack([torch.stack(noise).mean(), exact.square().sum()]))
    return torch.stack(rows)


# Probes: relative standard deviation of estimates of ‖H‖² on all examples.


def probes(draws: int, seed: int) -> Iterator[list[str]]:
    products = (1, 3, 6)
    yield ["estimate", *(f"{n}, products: {k}" for n in NETS for k in products)]
    for name in get_args(Distribution):
        spreads = [spread(fitted(n, seed).hessian, name) / k**0.5 for n in NETS for k in products]
        yield [f"‖H v‖², {name}", *(f"{s:.2f}" for s in spreads)]
    generator = Generator().manual_seed(seed)
    row = []
    for h in (fitted(n, seed).hessian for n in NETS):
        row.append("")
        for k in products[1:]:
            estimates = torch.stack([hutch_pp(h, k, generator) for _ in range(draws)])
            row.append(jackknife(Tensor.std, estimates / h.square().sum()))
    yield ["Hutch++, rademacher", *row]


def spread(h: Tensor, distribution: Distribution) -> float:
    """√Var(vᵀ M v) / tr M for M = H², over one v: Var is 2 ‖M‖² for normal numbers, and signs leave
    out M's diagonal.
    """
    m = h @ h
    fixed = m.diagonal().square().sum() if distribution == "rademacher" else 0.0
    return float((2 * (m.square().sum() - fixed)).sqrt() / m.trace())


def hutch_pp(h: Tensor, products: int, generator: Generator) -> Tensor:
    """‖H‖² = ‖H Q‖² + ‖H (I − Q Qᵀ)‖², Q a basis of H S for random S, the second from random probes:
    a third of the products each (Meyer et al. 2021).
    """
    sketch, v = draw_probes({"H": h[0]}, 2 * (products // 3), generator)["H"].mT.chunk(2, 1)
    q = torch.linalg.qr(h @ sketch).Q
    rest = v - q @ (q.mT @ v)
    return (h @ q).square().sum() + (h @ rest).square().sum() / v.shape[1]


# Spectral: share of ‖H‖_2² that is found.


def spectral(draws: int, seed: int) -> Iterator[list[str]]:
    products = (2, 4, 8)
    yield ["v by", *(f"{n}, products: {k}" for n in NETS for k in products)]
    for name, search in {"Lanczos": lanczos, "power iteration": power}.items():
        row = []
        for h in (fitted(n, seed).hessian for n in NETS):
            largest = torch.linalg.matrix_norm(h, 2).square()
            for k in products:
                generator = Generator().manual_seed(seed)
                starts = draw_probes({"H": h[0]}, draws, generator)["H"]
                shares = torch.stack([(h @ search(h, start, k)).square().sum() for start in starts])
                row.append(jackknife(Tensor.mean, shares / largest))
        yield [name, *row]


def lanczos(h: Tensor, start: Tensor, products: int) -> Tensor:
    search = Spectral(iterations=products)
    return search.aim(lambda: lambda v: {"H": h @ v["H"]}, {"H": start[None]})["H"][0]


def power(h: Tensor, start: Tensor, products: int) -> Tensor:
    for _ in range(products):
        start = h @ start
        start = start / start.norm()
    return start


# Noise samples: variance of L_3's estimate on all examples, against independent samples.


def noise(draws: int, seed: int) -> Iterator[list[str]]:
    others: tuple[Sampling, ...] = ("antithetic", "sobol")
    yield ["δ", "samples", *(f'`sampling="{s}"`, {n}' for n in NETS for s in others)]
    for delta in (0.1, 0.3):
        for samples in (2, 4, 8):
            row = []
            for net in (fitted(n, seed) for n in NETS):
                cube = Uniform(delta, samples=samples)
                base = losses_around(net, cube, draws, seed)
                for sampling in others:
                    losses = losses_around(net, replace(cube, sampling=sampling), draws, seed)
                    row.append(jackknife(ratio_of_variances, torch.stack([losses, base], 1)))
            yield [str(delta), str(samples), *row]


def losses_around(net: Net, cube: Uniform, draws: int, seed: int) -> Tensor:
    """The mean loss around each example, ``(draws / 10, examples)``."""
    generator = Generator().manual_seed(seed)
    around = []
    for _ in range(draws // 10):
        noisy = cube.perturb(net.inputs, cube.draw(net.inputs, generator))
        outputs = net.objective.model(net.params, noisy.flatten(0, 1))
        losses = net.objective.loss(outputs, net.targets.repeat(cube.samples))
        around.append(losses.view(cube.samples, -1).mean(0))
    return torch.stack(around)


def ratio_of_variances(pairs: Tensor) -> Tensor:
    """Examples are independent: the variance of their mean goes by the sum of theirs."""
    first, second = pairs.var(0).sum(1)
    return first / second


TABLES = {"steps": steps, "parts": parts, "probes": probes, "spectral": spectral, "noise": noise}


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    for table in arguments.tables:
        rows = TABLES[table](arguments.draws, arguments.seed)
        head = next(rows)
        print(f"\n| {' | '.join(head)} |\n|{' --- |' * len(head)}")
        for row in rows:
            print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
