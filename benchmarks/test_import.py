"""What `import phiopt` costs beyond `import torch`, and what the first use of a public name adds.

python -m pytest benchmarks/test_import.py -s --benchmark-json=import.json

Processor seconds of a fresh process, which other programs on the machine disturb less than the clock: the least of
several, the statements in turn. The first round writes the byte code, as an installation does.
"""

import os
import resource
import subprocess
import sys
from pathlib import Path

ROUNDS, LIMIT = 5, 0.1
STATEMENTS = {
    "torch": "import torch",
    "phiopt": "import torch, phiopt",
    "phiopt.grow": "import torch, phiopt; phiopt.grow",
    "phiopt.initialize": "import torch, phiopt; phiopt.initialize",
    "torchopt": "import torch, torchopt",
}


def seconds(statement: str, byte_code: Path) -> float:
    """User seconds of a process that runs ``statement``."""
    environment = os.environ | {"PYTHONPYCACHEPREFIX": str(byte_code)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    subprocess.run([sys.executable, "-c", statement], check=True, env=environment)
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before


def test_import(benchmark, tmp_path):
    rounds = [{k: seconds(s, tmp_path) for k, s in STATEMENTS.items()} for _ in range(1 + ROUNDS)]
    least = {name: min(r[name] for r in rounds[1:]) for name in STATEMENTS}
    beyond = {name: (least[name] - least["torch"]) / least["torch"] for name in STATEMENTS}
    benchmark.extra_info |= {"beyond torch, in imports of torch": beyond, "seconds": least}
    benchmark.pedantic(lambda: None, rounds=1)
    print("\nbeyond torch:", ", ".join(f"{name} {b:.3f}" for name, b in beyond.items()))
    assert beyond["phiopt"] <= LIMIT
