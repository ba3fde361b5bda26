"""φ: the student's initial parameters as the argmin of four terms (paper, section 4)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

from torch import Tensor, nn
from torch.distributed import ProcessGroup

from phiopt._arguments import check_solve
from phiopt._checks import Scalar
from phiopt._modules import global_lock
from phiopt._order import in_order
from phiopt._progress import showing
from phiopt._resuming import PathLike, check_files
from phiopt._types import Lift, Loss, Params
from phiopt.bilevel import Adjoint
from phiopt.bilevel.adjoint import check_derivative, given_tensors
from phiopt.data import Source
from phiopt.distributed import together
from phiopt.growth import GrowthMap
from phiopt.objective import Curvature, Lambdas, Neighbourhood, Term
from phiopt.objective.extra import check_extra
from phiopt.pose import pose
from phiopt.solve import Level, Solution, Solver, TorchOpt


@in_order
@global_lock()
@together
def initialize(
    teacher: nn.Module,
    student: nn.Module,
    lambdas: Lambdas | Tensor | Iterable[float],
    data: Source | None = None,
    *,
    map: GrowthMap | None = None,
    lift: Lift | None = None,
    classes: Sequence[int] | Tensor | None = None,
    loss: Loss | None = None,
    neighbourhood: Neighbourhood | None = None,
    curvature: Curvature | None = None,
    extra: Sequence[tuple[Scalar, Term]] = (),
    scale: Literal["relative", "paper"] = "relative",
    start: str | Params | None = None,
    solver: Solver | None = None,
    adjoint: Adjoint | None = None,
    certificate: Level | None = "light",
    restrict_classes: bool = False,
    restarts: int = 0,
    micro_batch: int | None = None,
    process_group: ProcessGroup | None = None,
    checkpoint: PathLike | None = None,
    resume: PathLike | None = None,
    seed: int = 0,
    throw: bool = True,
    progress: bool = False,
) -> Solution:
    """Initialise a student from a smaller trained teacher: w1 = φ(u).

        φ(u) = argmin_w λ1 L_f(w, D1*) + λ2 ‖u − w[u]‖² + λ3 L_3^δ(w, D1) + λ4 ‖∂²L_f/∂w²‖²
        (paper, section 4)

    The objective is minimised over the student's parameters that require grad. Its other parameters and its buffers
    stay at the start. The student runs in evaluation mode throughout. Teacher, student and data are never modified,
    and share no storage with the result.

    The global random states of PyTorch, NumPy and Python stay as they were, and so do the generators that a loader or
    data set holds. On the CPU the same seed gives the same bits, if ``torch.get_num_threads`` and the default dtype
    are the same. That holds too where a data set draws at random, from these generators or in a loader's workers.
    Threads that call this function take turns.

    To solve one problem many times, at other λ or from other starts, `pose` the problem once.

    Args:
        teacher: The trained model g(·, u), from a batch of inputs to outputs ``(batch, c1)``.
        student: The larger model f, as constructed. Start "default" uses its own values.
        lambdas: λ, a point of the simplex with λ2 > 0: `Lambdas`, four numbers, or a tensor of
            shape ``(4,)``.
        data: D1 in the teacher's space: ``(inputs, targets)``, where inputs may be several, a mapping
            with ``labels``, a list or map-style ``Dataset`` of such examples, or a ``DataLoader``
            (docs/data.md). Each pass of a loader starts its own workers, also with
            ``persistent_workers``. None only if no other term than λ2's has weight.
        map: Where the teacher sits in the student, if that is known: a `GrowthMap` of the two, or
            ``solution.map`` of another call. None: the map is derived.
        lift: ψ, from a batch of the teacher's inputs to a batch of the student's. A module runs in
            evaluation mode. None: inferred from the shapes.
        classes: Student output index of each of the teacher's classes. None: the first c1.
        loss: ``l(outputs, targets)`` to losses of shape ``(batch,)``. None: cross-entropy of
            logits; of inputs with names, labels -100 are left out, and labels equal to ``input_ids``
            become the next tokens. Integer targets are class indices, floating ones are handed on as
            they are, and several by name as a dictionary.
        neighbourhood: U_δ, in the teacher's input space. None: ``Uniform(0.1)``, which suits inputs
            scaled to [0, 1].
        curvature: The estimator of the curvature term. None: ``Frobenius()``.
        extra: Terms beside the paper's four, as pairs of a weight and a `Term`; see docs/extending.md. A weight is
            not negative, and no part of the simplex. None by default.
        scale: "relative" divides L_2 by ‖u‖² and L_4 by its value at the start, so that λ weighs
            numbers of comparable size. A divisor that is not positive and finite is left at 1. Where the
            estimate of L_4 comes out negative its size is the divisor. "paper" is the formula as printed, with
            L_f and L_3 as means over D1.
        start: A fill's name, such as "default" (None), "zero" or "zero-out", or the student's
            parameters by name.
        solver: None: ``TorchOpt()``, Adam for 150 steps of 128 examples.
        adjoint: `Replay`, `Unroll` or `Implicit`. ``solution.params`` are then differentiable in those tensors
            that require grad among ``lambdas``, the neighbourhood's ``delta``, the teacher's parameters
            (through L_2), the parameters of a ``lift`` that is a module (through L_f, L_3 and L_4 at ψ(x)), a
            ``start`` given as Params, and the weights and tensors of ``extra`` terms. The relative scale's
            divisors, and a start given by name, count as constants. ``torch.func`` can differentiate in λ, δ
            and the start too, but not under ``vmap`` over them. None: no derivative.
        certificate: How much is measured of the result, on fresh draws: "light" (default), "full", or None for
            nothing. See `Certificate` for what each costs. With "full" terms without weight are measured too.
            Without a certificate the status is the solver's own: a saddle, or a sample that was too small, is not
            noticed.
        restrict_classes: True: the loss sees only the outputs of the teacher's classes. False: all
            of them.
        restarts: Number of further solves, from perturbed starts. The certificate lists the objectives that they
            reach. Much lower ones mean that w1 is a poor minimum.
        micro_batch: Examples that go through the student at once, to bound the memory of activations. The result
            is the same to rounding. It bounds an adjoint's passes too, except those with the curvature. None:
            the whole batch.
        process_group: Share each batch out among the processes of this ``torch.distributed`` group,
            such as ``torch.distributed.group.WORLD``. Every process calls with the same arguments
            and gets the same solution, that of one process. None: this process alone.
        checkpoint: A file to which the solve writes its state: at its beginning, about every minute, and at its end,
            which may be an interrupt or an error. The file is replaced whole. Only `TorchOpt` has checkpoints, and
            not with an adjoint. None (default): no file.
        resume: The checkpoint of an interrupted call with the same arguments. The solve goes on from it, and gives
            the bits that it would have given without the interrupt (``stats.seconds`` apart). A data set or loader is
            read over to where it was. ``restarts`` and the certificate are computed anew. ``certificate``,
            ``restarts``, ``checkpoint``, ``throw`` and ``progress`` may be others. None (default): the solve begins.
        seed: Seed of every random draw, a whole number from 0 to 2⁶³ − 1.
        throw: True: raise when the solver fails. False: return the solution with its status.
        progress: Show a progress bar, on a terminal only: the phase (checking, mapping, scaling, solving, validating,
            certifying) and the time that is left of it. A solve that is expected to take more than a minute is
            announced by a line with that time and its two largest parts. For that one gradient is timed.

    Returns:
        The `Solution`. Its ``student`` is a new module that holds w1.

    Raises:
        SolveError: The solver failed. Its ``solution`` attribute is the best that was reached.
        KeyboardInterrupt: The call was interrupted. If that was during the solve or after it, its ``solution``
            attribute is the best that was reached. With ``throw=False`` this solution is returned.
        ConnectionError: Another process of ``process_group`` has ended, or has failed by itself.
        ValueError, TypeError: An argument breaks its rule. Or the gradient of the loss is not that of its values,
            because a layer or the loss detaches, rounds or differentiates by hand. Or a layer of the student
            has no third derivative although λ4 > 0 (see `check`). The message names the argument or the layer,
            before any work. Or ``resume`` is no checkpoint, is damaged, or is of a call with other arguments.
        OSError: ``checkpoint`` cannot be written, or ``resume`` cannot be read.

    Examples:
        >>> teacher = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
        >>> student = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 5))
        >>> x, y = torch.randn(64, 4), torch.randint(3, (64,))
        >>> solution = initialize(teacher, student, (0.4, 0.2, 0.2, 0.2), (x, y), solver=TorchOpt(steps=20))
        >>> solution.objective < solution.start_objective
        True
    """
    weights = Lambdas.of(lambdas)
    flags = {"throw": throw, "progress": progress}
    check_solve(solver, adjoint, certificate, seed, restarts, flags)
    check_files(checkpoint, resume, solver, adjoint)
    given = given_tensors(weights, neighbourhood, start, check_extra(extra))
    check_derivative(given, adjoint)
    with showing(progress):
        problem = pose(
            teacher,
            student,
            weights,
            data,
            map=map,
            lift=lift,
            classes=classes,
            loss=loss,
            neighbourhood=neighbourhood,
            curvature=curvature,
            extra=extra,
            scale=scale,
            start=start,
            restrict_classes=restrict_classes,
            micro_batch=micro_batch,
            process_group=process_group,
            batch_size=(TorchOpt() if solver is None else solver).batch_size,
            seed=seed,
        )
        # A problem is posed with numbers. For the solve the tensors come back, on their graph.
        solving: dict[str, Any] = {"solver": solver, "adjoint": adjoint, "certificate": certificate}
        solving |= {"restarts": restarts, "checkpoint": checkpoint, "resume": resume}
        return problem.with_tensors(given).solve(**solving, throw=throw, progress=progress)
