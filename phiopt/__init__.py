"""Grow a trained network into a larger one by solving the Anti-Distillation problem."""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

__version__ = "0.1.0"

# A public name is imported when it is first used. `import phiopt` alone costs next to nothing, and growing a network
# loads neither TorchOpt nor SciPy. The rooms, and the public names of each:
_ROOMS = {
    "_warnings": ("PhioptWarning",),
    "_types": ("Lift", "Loss", "Params"),
    "bilevel": (
        "AdjointError",
        "Implicit",
        "Mirror",
        "Optuna",
        "OuterLoss",
        "Replay",
        "Training",
        "Unroll",
    ),
    "check": ("check",),
    "criteria": (),
    "data": ("Source",),
    "derivatives": (),
    "distributed": (),
    "estimate_cost": ("estimate_cost",),
    "growth": ("GrowthMap", "carry_optimizer", "grow"),
    "initialize": ("initialize",),
    "learn": ("Learned", "learn"),
    "lift": (),
    "objective": (
        "Corruption",
        "Frobenius",
        "Gaussian",
        "Lambdas",
        "Replacement",
        "Spectral",
        "Uniform",
    ),
    "optimizers": ("masked", "normalised"),
    "pose": ("pose",),
    "problem": ("Problem",),
    "solve": ("LBFGS", "NewtonCG", "Solution", "SolveError", "Status", "TorchOpt"),
    "training": ("param_groups",),
}
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names}
__all__ = sorted([*_ROOM_OF, "criteria", "lift"])

if TYPE_CHECKING:
    # The same names, for type checkers and editors. (`phiopt.growth.grow` is a file and a function.)
    from phiopt import criteria as criteria
    from phiopt import lift as lift
    from phiopt._types import Lift as Lift
    from phiopt._types import Loss as Loss
    from phiopt._types import Params as Params
    from phiopt._warnings import PhioptWarning as PhioptWarning
    from phiopt.bilevel import AdjointError as AdjointError
    from phiopt.bilevel import Implicit as Implicit
    from phiopt.bilevel import Mirror as Mirror
    from phiopt.bilevel import Optuna as Optuna
    from phiopt.bilevel import OuterLoss as OuterLoss
    from phiopt.bilevel import Replay as Replay
    from phiopt.bilevel import Training as Training
    from phiopt.bilevel import Unroll as Unroll
    from phiopt.check import check as check
    from phiopt.data import Source as Source
    from phiopt.estimate_cost import estimate_cost as estimate_cost
    from phiopt.growth import GrowthMap as GrowthMap
    from phiopt.growth import carry_optimizer as carry_optimizer
    from phiopt.growth.grow import grow as grow
    from phiopt.initialize import initialize as initialize
    from phiopt.learn import Learned as Learned
    from phiopt.learn import learn as learn
    from phiopt.objective import Corruption as Corruption
    from phiopt.objective import Frobenius as Frobenius
    from phiopt.objective import Gaussian as Gaussian
    from phiopt.objective import Lambdas as Lambdas
    from phiopt.objective import Replacement as Replacement
    from phiopt.objective import Spectral as Spectral
    from phiopt.objective import Uniform as Uniform
    from phiopt.optimizers import masked as masked
    from phiopt.optimizers import normalised as normalised
    from phiopt.pose import pose as pose
    from phiopt.problem import Problem as Problem
    from phiopt.solve import LBFGS as LBFGS
    from phiopt.solve import NewtonCG as NewtonCG
    from phiopt.solve import Solution as Solution
    from phiopt.solve import SolveError as SolveError
    from phiopt.solve import Status as Status
    from phiopt.solve import TorchOpt as TorchOpt
    from phiopt.training import param_groups as param_groups
else:  # A type checker that saw this would take every misspelt name for an object.

    def __getattr__(name):
        if name in _ROOM_OF:
            value = getattr(import_module(f"{__name__}.{_ROOM_OF[name]}"), name)
        elif name in _ROOMS:
            value = import_module(f"{__name__}.{name}")
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value
        return value

    def __dir__():
        return sorted({*globals(), *_ROOM_OF, *_ROOMS})


class _Package(ModuleType):
    """`phiopt.initialize` is the verb, also when the file `phiopt/initialize.py` is imported.

    Python makes each imported submodule an attribute of its package: without this, it would take the verb's place.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if isinstance(value, ModuleType) and name in _ROOM_OF:
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
