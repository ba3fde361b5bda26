"""One thread a process: tests share the cores, and nets this small lose more to waiting than they gain."""

import os

# Before PyTorch is imported, and for the processes that tests start.
os.environ["OMP_NUM_THREADS"] = "1"
