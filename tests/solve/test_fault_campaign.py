"""A thousand seeded faults: NaN, infinities, 1e30 and exceptions at any call of any part that a user
gives. A number from a failing id makes its run alone: ``python -m tests.solve.test_fault_campaign 17``.
"""

import sys

import pytest

from tests.solve.fault_cases import PLACES, Case
from tests.solve.fault_rules import check
from tests.solve.faults import KINDS

CASES = [Case.of(number) for number in range(1000)]
FEW = CASES[:20]


def test_the_campaign_has_every_place_with_every_kind():
    met = {(case.place, case.kind) for case in CASES}
    wanted = {(p, k) for p in PLACES for k in KINDS if p not in ("sampler", "teacher", "outer")}
    assert wanted <= met


@pytest.mark.filterwarnings("ignore:learn. the chosen solution:UserWarning")
@pytest.mark.parametrize("case", FEW, ids=str)
def test_a_fault_is_told_and_loses_nothing(case):
    check(case)


@pytest.mark.slow
@pytest.mark.campaign
@pytest.mark.filterwarnings("ignore:learn. the chosen solution:UserWarning")
@pytest.mark.parametrize("case", CASES[len(FEW) :], ids=str)
def test_a_fault_is_told_and_loses_nothing_throughout(case):
    check(case)


if __name__ == "__main__":
    case = Case.of(int(sys.argv[1]))
    print(case, "met" if check(case) else "not met")
