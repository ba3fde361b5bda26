"""Wrong command lines, and what is loaded to answer them."""

import subprocess
import sys


def check_answered_lightly(module, given, heavy):
    """``main()`` of a module ends each of these command lines with one error and status 2, and loads nothing heavy."""
    program = (
        "import sys\n"
        f"from {module} import main\n"
        f"for given in {given!r}:\n"
        "    sys.argv = ['command', *given]\n"
        "    try: main()\n"
        "    except SystemExit as end: assert end.code == 2, given\n"
        "    else: raise AssertionError(given)\n"
        f"loaded = {heavy!r} & set(sys.modules)\n"
        "assert not loaded, loaded"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.count("error: ") == len(given)
