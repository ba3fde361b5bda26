"""Work that is killed and begun again ends as if nothing had happened; two processes in one directory lose nothing."""

import json
import os
import subprocess
import sys

import pytest

CAMPAIGN = [pytest.mark.slow, pytest.mark.campaign]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize(
    ("work", "kills"),
    [
        pytest.param("solution", 3, marks=pytest.mark.slow),
        pytest.param("solution", 30, marks=CAMPAIGN),
        pytest.param("experiment", 40, marks=CAMPAIGN),
        pytest.param("search", 30, marks=CAMPAIGN),
        pytest.param("learn", 20, marks=CAMPAIGN),
        pytest.param("solve", 40, marks=CAMPAIGN),
    ],
)
def test_killed_work_goes_on_to_the_same_end(tmp_path, work, kills):
    command = [sys.executable, "-m", "tests.kills", work, str(tmp_path), str(kills), "0"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    counts = json.loads(ended.stdout.splitlines()[-1])
    assert counts["kills"] == kills
    assert counts["by time"]
    assert counts["in a write"]
