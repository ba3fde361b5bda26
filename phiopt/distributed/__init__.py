"""One solve by several processes: batches shared out, and the same arguments on all of them."""

from phiopt.distributed.exchange import together
from phiopt.distributed.parallel import data_parallel
from phiopt.distributed.replicas import check_replicas, failing_together, replicated

__all__ = ["check_replicas", "data_parallel", "failing_together", "replicated", "together"]
