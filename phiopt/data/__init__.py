"""D1, the teacher's data: tensors, a data set or a loader, as checked batches of tensors."""

from phiopt.data.batches import Data
from phiopt.data.given import Batch, Source, check_pair, check_range, check_source

__all__ = ["Batch", "Data", "Source", "check_pair", "check_range", "check_source"]
