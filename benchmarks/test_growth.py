"""The growth map of large pairs: seconds, memory, and embedding against copying the weights.

python -m pytest benchmarks/test_growth.py --benchmark-json=growth.json
"""

import pytest

from benchmarks.large_pairs import LARGE, apart, cost

SECONDS = dict(zip(LARGE, (3.0, 5.0), strict=True))
"""Most for the map."""
MEMORY = 3.0
"""Most that map and embedding may add, in multiples of the student's own size."""
EMBED = 2.0
"""Most for embedding, in clones of both models' tensors."""


@pytest.mark.parametrize("name", LARGE)
def test_the_map_of_a_large_pair(benchmark, name):
    costs = benchmark.pedantic(apart, args=(cost, name), rounds=1)
    benchmark.extra_info |= vars(costs)
    print(f"\n{name}: {costs}")
    assert costs.trace <= SECONDS[name]
    assert costs.memory <= MEMORY
    assert costs.embed <= EMBED * costs.copy
