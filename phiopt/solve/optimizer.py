"""What counts as a functional optimiser of TorchOpt."""

from typing import Any

from phiopt._values import shown


def check_optimizer(optimizer: Any) -> None:
    """Refuse what is neither a functional optimiser of TorchOpt nor None."""
    if optimizer is not None:
        check_transformation(optimizer)


def check_transformation(optimizer: Any) -> None:
    """Refuse what is no functional optimiser of TorchOpt; a class is none."""
    methods = (getattr(optimizer, name, None) for name in ("init", "update"))
    if isinstance(optimizer, type) or not all(map(callable, methods)):
        raise TypeError(
            f"optimizer: got {shown(optimizer)}, must be a TorchOpt gradient transformation "
            "such as torchopt.adam(1e-3)"
        )
