"""D1, the teacher's data: tensors, a data set or a loader, as checked batches of tensors."""

from phiopt.data.batches import Data
from phiopt.data.collate import collated
from phiopt.data.default_targets import LEFT_OUT, NextTokens, counted, leaves_out
from phiopt.data.given import Batch, Source, batch_of, check_range, check_source, is_list_of_items

__all__ = [
    "LEFT_OUT",
    "Batch",
    "Data",
    "NextTokens",
    "Source",
    "batch_of",
    "check_range",
    "check_source",
    "collated",
    "counted",
    "is_list_of_items",
    "leaves_out",
]
