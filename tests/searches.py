"""Searches that `learn` keeps in a directory: how they are called, cut off and compared."""

from dataclasses import replace

from phiopt.bilevel.outer import OuterLoss
from phiopt.bilevel.run import Run
from phiopt.bilevel.search import Mirror
from phiopt.learn import learn
from tests.cases import mlp
from tests.learning import QUICK, V, X, Y

THREE = (0.4, 0.3, 0.3, 0)


MODELS = mlp(4, 3, 2, seed=1), mlp(4, 5, 3, seed=2)
MODELS[1][0].weight.requires_grad_(False)


class Stop(BaseException):
    """Not caught by a search, as a kill is not."""


def call(directory=None, **options):
    small, large = options.pop("models", MODELS)
    options = {"solver": QUICK, "lambdas": THREE, "search": Mirror(budget=5)} | options
    data, outer = options.pop("data", (X, Y)), options.pop("outer", OuterLoss(V))
    return learn(small, large, data, outer, directory=directory, **options)


def content(actual):
    """All that must be the same."""
    solution = actual.solution
    seconds = replace(solution.stats, seconds=0)
    return {
        "path": actual.path,
        "lambdas": actual.lambdas,
        "rest": (actual.delta, actual.theta, actual.outer, actual.start_outer, actual.status),
        "error": str(actual.error),
        "params": {name: value.tolist() for name, value in solution.params.items()},
        "student": {name: value.tolist() for name, value in solution.student.state_dict().items()},
        "report": (solution.terms, solution.objective, solution.certificate, seconds),
        "history": solution.history,
        "text": str(actual),
    }


def counted_solves(monkeypatch):
    """A list that gets one entry for each solve."""
    made, real = [], Run._solved

    def counted(self, *args):
        made.append(1)
        return real(self, *args)

    monkeypatch.setattr(Run, "_solved", counted)
    return made
