"""The command line: one command an experiment.  Heavy imports wait until one is chosen."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from experiments import checks
from experiments import names as known
from experiments.errors import UsageError


class Experiments(TyperGroup):
    """The group of experiments: an unknown one is answered with the list, a mistake with one line."""

    def main(self, *args: Any, **options: Any) -> Any:
        try:
            code = super().main(*args, **options | {"standalone_mode": False})
        except Exception as error:
            # Typer's own, which has had the class from two packages.
            if not hasattr(error, "format_message"):
                raise
            message = " ".join(error.format_message().split())
            typer.echo(f"error: {message}", err=True)
            code = getattr(error, "exit_code", 2)
        sys.exit(code if isinstance(code, int) else 0)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        command = super().get_command(ctx, cmd_name)
        if command is None:
            ctx.fail(f"unknown experiment {cmd_name!r}; choose from {', '.join(self.commands)}")
        return command


class Scale(StrEnum):
    QUICK = "quick"
    FULL = "full"


app = typer.Typer(cls=Experiments, add_completion=False, pretty_exceptions_enable=False)

EXPERIMENTS = {
    "basic": "Fashion-MNIST, one data set: the paper's experiments 1 (epochs) and 2 (corruption).",
    "classes": "Classes 0-4 of Fashion-MNIST to all ten: the paper's experiment 3.",
    "cifar": "Fashion-MNIST to CIFAR-10: the paper's experiment 4.",
    "theta": "U[0, θ] for several θ, one data set.",
    "lambdas": "φ with its terms switched on and off, one data set.",
    "samples": "Classes 0-4 to all ten with few images of D2.",
    "variants": "φ with one setting changed at a time, on validation data alone.",
    "cifar-variants": "Fashion-MNIST to CIFAR-10 with other inputs and heads, on validation data alone.",
    "variance": "Students of one teacher: the variance of their predictions over seeds.",
    "halves": "Half of the data first, then all of it.",
}

Seeds = Annotated[
    str | None, typer.Option(help="How many (5: seeds 0 to 4), or which (0,3,7; or 3, for one).")
]
Methods = Annotated[
    str | None,
    typer.Option(
        help="Initialisations, separated by commas, or all; the paper's and φ when left out."
    ),
]
Out = Annotated[Path, typer.Option(help="Run directory; the same command goes on from there.")]


@app.callback(invoke_without_command=True)
def experiments(context: typer.Context) -> None:
    """Grow a trained network into a larger one and compare how the student starts."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def demo(seeds: Seeds = None, methods: Methods = None, out: Out = Path("runs/demo")) -> None:
    """Digits 0 to 4 teach, a larger student learns all ten: minutes, no download."""
    with _mistakes_shown(out):
        numbers = checks.seeds(seeds, default=5)
        compared = checks.methods(methods, known.DEMO)
        checks.writable(out)
        import torch

        from experiments import demo

        # Networks this small lose by threads, and one gives the same figures on every machine.
        torch.set_num_threads(1)
        demo.run(numbers, compared, out)


def _experiment(name: str) -> Callable[..., None]:
    """The command that runs ``experiments/NAME.py``."""

    def command(
        scale: Annotated[Scale, typer.Option(help="quick: minutes on a CPU.")] = Scale.QUICK,
        seeds: Seeds = None,
        methods: Methods = None,
        tasks: Annotated[
            str | None,
            typer.Option(
                help="Such as mlp,cnn,lstm, or all. Left out: all, but at --scale quick the MLP's alone, "
                "except for basic, classes and cifar."
            ),
        ] = None,
        data: Annotated[
            Path | None, typer.Option(help="Folder in torchvision's layout; else $PHIOPT_DATA.")
        ] = None,
        download: Annotated[
            bool, typer.Option("--download", help="Fetch what is missing.")
        ] = False,
        device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, …")] = "cpu",
        out: Out = Path("runs") / name,
    ) -> None:
        with _mistakes_shown(out):
            checks.seeds(seeds, default=1)
            names = checks.tasks(tasks, known.EXPERIMENTS[name])
            compared = checks.methods(methods, known.EXPERIMENTS[name])
            checks.device(device)
            checks.writable(out)
            if device != "cpu":
                _device(device)  # PyTorch alone knows whether it is there
            sets = [checks.FASHION, *([checks.CIFAR] if name.startswith("cifar") else [])]
            checks.data(data, download=download, sets=sets)
            from experiments.scales import SCALES

            experiment = import_module(f"experiments.{name.replace('-', '_')}").EXPERIMENT
            size = SCALES[scale.value]
            numbers, place = checks.seeds(seeds, default=size.seeds), _device(device)
            images = experiment.load(checks.data_root(data), download=download)
            made = experiment.tasks(size, images)
            experiment.run(size, made, names, compared, numbers, place, out)

    return command


for _name, _help in EXPERIMENTS.items():
    app.command(_name, help=_help)(_experiment(_name))


@app.command()
def ablation(
    seeds: Seeds = None,
    tasks: Annotated[
        str, typer.Option(help="Of digits (no data needed), classes and noise.")
    ] = "digits,classes,noise",
    resolution: Annotated[
        int, typer.Option(help="Parts that the weight 1 is cut into; 4 makes 35 points.")
    ] = 4,
    data: Annotated[
        Path | None, typer.Option(help="Folder in torchvision's layout; else $PHIOPT_DATA.")
    ] = None,
    download: Annotated[bool, typer.Option("--download", help="Fetch what is missing.")] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, …")] = "cpu",
    out: Out = Path("runs/ablation"),
) -> None:
    """φ on a lattice of λ, many points at a time, and `phiopt.learn` against its best point."""
    with _mistakes_shown(out):
        names = checks.names("--tasks", tasks, known.ABLATIONS)
        numbers = checks.seeds(seeds, default=5)
        checks.resolution(resolution)
        checks.device(device)
        for name in names:
            checks.writable(out / name)
        if names != ["digits"]:
            checks.data(data, download=download, sets=[checks.FASHION])
        from experiments import ablation

        ablation.run(
            names,
            numbers,
            resolution,
            data,
            _device(device),
            out,
            download=download,
        )


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run directories, or folders of them.")],
    out: Annotated[Path, typer.Option(help="Where the pages and figures go.")] = Path("report"),
) -> None:
    """One Markdown and one HTML page with all figures and tables of the runs."""
    with _mistakes_shown(out):
        checks.reported(runs)
        checks.writable(out)
        from experiments.report import document

        document.write(runs, out)
        typer.echo(f"report: {out / 'report.md'}, {out / 'report.html'}")


@contextmanager
def _mistakes_shown(out: Path) -> Iterator[None]:
    """One line on stderr instead of a traceback, where the person at the keyboard can act."""
    try:
        yield
    except UsageError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
    except OSError as error:
        typer.echo(f"error: {error}; {out} keeps what is finished", err=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        typer.echo(f"interrupted: {out} keeps what is finished; the same command goes on", err=True)
        raise typer.Exit(130) from None


def _device(name: str) -> Any:
    import torch

    try:
        device = torch.device(name)
        torch.zeros((), device=device).item()  # some have names and hold no numbers
    except (RuntimeError, AssertionError, ImportError) as error:
        raise UsageError(
            f"--device {name}: not usable here ({str(error).splitlines()[0]})"
        ) from None
    return device
