"""What `import phiopt` costs beyond `import torch`, and what the first use of a public name adds.

python -m pytest benchmarks/test_import.py -s --benchmark-json=import.json

Processor seconds within fresh processes, each statement after those above it; the median of several processes. The
first process writes the byte code, as an installation does, and does not count.
"""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

ROUNDS, LIMIT = 3, 0.05
STATEMENTS = (
    "import torch",
    "import phiopt",
    "phiopt.grow",
    "phiopt.initialize",
    "phiopt.learn",
)
PROGRAM = f"""
import json
from time import process_time
seconds = []
for statement in {STATEMENTS!r}:
    began = process_time()
    exec(statement)
    seconds.append(process_time() - began)
print(json.dumps(seconds))
"""


def seconds(byte_code: Path) -> list[float]:
    """Of each statement, in a process of its own."""
    environment = os.environ | {"PYTHONPYCACHEPREFIX": str(byte_code)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    command = [sys.executable, "-c", PROGRAM]
    run = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return json.loads(run.stdout)


def test_import(benchmark, tmp_path):
    seconds(tmp_path)
    rounds = [seconds(tmp_path) for _ in range(ROUNDS)]
    medians = dict(zip(STATEMENTS, map(statistics.median, zip(*rounds, strict=True)), strict=True))
    torch = medians["import torch"]
    ratios = {statement: value / torch for statement, value in medians.items()}
    benchmark.extra_info |= {"seconds": medians, "in imports of torch": ratios}
    benchmark.pedantic(lambda: None, rounds=1)
    shown = (f"{name} {medians[name]:.3f} s, {ratios[name]:.3f}" for name in STATEMENTS)
    print("\nin imports of torch:", "; ".join(shown))
    assert ratios["import phiopt"] <= LIMIT
