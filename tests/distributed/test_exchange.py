"""Processes of which one is killed, or fails by itself: the others end with an error, and soon."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

import phiopt
from phiopt.distributed.exchange import LostError

WITHIN = 60
"""Seconds after a process was killed in which the others must have ended with an error."""
PATIENCE = 600
"""Seconds for all else, as the start of processes on crowded cores: only a test that hangs takes them."""


faults = []
"""Of this process: what happens at a call of the loss to come, and how many calls come before it."""


def killed(folder):
    """A fault that notes its time and kills the process."""

    def strike():
        (folder / "struck").touch()
        os.kill(os.getpid(), signal.SIGKILL)

    return strike


def since_killed(folder):
    """Seconds."""
    return time.time() - (folder / "struck").stat().st_mtime


def raises():
    raise OSError("gone")


def loss(outputs, targets):
    """The same in all processes, as far as can be told."""
    if faults:
        fault, left = faults.pop()
        if left == 0:
            fault()
        faults.append((fault, left - 1))
    return nn.functional.cross_entropy(outputs, targets, reduction="none")


def solve(group, fault=None):
    """A solve without end, in which the loss comes to a fault."""
    faults[:] = [(fault, 100)] if fault else []
    torch.manual_seed(0)
    teacher, student = nn.Linear(3, 2), nn.Linear(3, 2)
    data = torch.randn(8, 3), torch.arange(8) % 2
    solver = phiopt.TorchOpt(steps=10**9, batch_size=4)
    options = {"solver": solver, "loss": loss, "process_group": group, "throw": False}
    try:
        phiopt.initialize(teacher, student, (0.5, 0.25, 0.25, 0), data, **options)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "returned"


def wait_for(path):
    end = time.monotonic() + PATIENCE
    while not path.exists() and time.monotonic() < end:
        time.sleep(0.1)


def pairs(rank, folder):
    """Process 0 solves with process 1, whose loss raises and who then stays, and with process 2, which
    is killed.
    """
    init = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=init, rank=rank, world_size=3)
    torch.set_num_threads(1)
    groups = [dist.new_group([0, other]) for other in (1, 2)]
    done = folder / "done"
    if rank:
        results = [solve(groups[rank - 1], (raises, killed(folder))[rank - 1])]
        wait_for(done)
    else:
        results = [solve(groups[0]), solve(groups[0]), solve(groups[1]), since_killed(folder)]
    torch.save(results, folder / f"{rank}.pt")
    done.touch()


def ring(rank, folder):
    """The last is killed; the others stay, so that only its neighbours see connections close."""
    init = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=init, rank=rank, world_size=5)
    torch.set_num_threads(1)
    outcome = solve(dist.group.WORLD, killed(folder) if rank == 4 else None)
    torch.save((outcome, since_killed(folder)), folder / f"{rank}.part")
    (folder / f"{rank}.part").rename(folder / f"{rank}.pt")
    for other in range(4):
        wait_for(folder / f"{other}.pt")


def ended(work, folder, count):
    """The exit codes; None for a process that has not ended in time."""
    context = mp.get_context("spawn")
    processes = [context.Process(target=work, args=(rank, folder)) for rank in range(count)]
    for process in processes:
        process.start()
    end = time.monotonic() + PATIENCE
    try:
        for process in processes:
            process.join(max(0.0, end - time.monotonic()))
        return [process.exitcode for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.join()


@pytest.mark.slow
def test_the_other_process_is_told_of_one_that_raises_or_is_killed(tmp_path):
    assert ended(pairs, tmp_path, 3) == [0, 0, -signal.SIGKILL]
    content, again, lost, seconds = torch.load(tmp_path / "0.pt")
    assert content == again == "LostError: process_group: rank 1 failed with OSError: gone"
    assert lost.startswith("LostError: process_group: a process of the group has ended")
    assert seconds < WITHIN
    assert torch.load(tmp_path / "1.pt") == ["OSError: gone"]


@pytest.mark.slow
def test_processes_that_are_no_neighbours_of_the_killed_one_end_too(tmp_path):
    assert ended(ring, tmp_path, 5) == [0, 0, 0, 0, -signal.SIGKILL]
    for rank in range(4):
        text, seconds = torch.load(tmp_path / f"{rank}.pt")
        assert text.startswith("LostError: process_group: a process of the group has ended")
        assert seconds < WITHIN


@pytest.mark.slow
def test_torchrun_ends_where_a_process_is_killed(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node=3", "-m", "tests.distributed.test_exchange", str(tmp_path)]
    with open(tmp_path / "log", "w") as log:
        run = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        wait_for(tmp_path / "struck")
        assert (tmp_path / "struck").exists(), (tmp_path / "log").read_text()
        assert run.wait(PATIENCE) != 0
        assert since_killed(tmp_path) < WITHIN
    finally:  # torchrun ends its processes when it is terminated, not when it is killed
        run.terminate()
        run.wait()
    for rank in range(3):
        process = int((tmp_path / f"process-{rank}").read_text())
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)
    for path in tmp_path.glob("error-*"):  # of those that torchrun itself was not quicker to end
        assert path.read_text().startswith("LostError: process_group: a process of the group")


def under_torchrun(folder):
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    rank = dist.get_rank()
    (folder / f"process-{rank}").write_text(str(os.getpid()))
    outcome = solve(dist.group.WORLD, killed(folder) if rank == 2 else None)
    (folder / f"error-{rank}").write_text(outcome)
    with suppress(RuntimeError):
        dist.destroy_process_group()
    raise LostError(outcome)


if __name__ == "__main__":
    under_torchrun(Path(sys.argv[1]))
