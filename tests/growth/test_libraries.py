"""Models of timm and transformers, as benchmarks/libraries.py pairs them: no growth is wrong without a word."""

import warnings

import pytest

pytest.importorskip("timm", reason="needs phiopt[families]")
pytest.importorskip("transformers", reason="needs phiopt[families]")

from benchmarks.families import judged, measure
from benchmarks.libraries import TIMM, TRANSFORMERS

QUICK = {
    ("ViT", "width and depth"),
    ("ResNet", "width"),
    ("BERT", "more heads"),
    ("GPT-2", "depth"),
    ("T5 encoder", "depth"),
}
"""These must be exact, and are quick enough for every run."""


def name_of(family):
    return f"{family.name}, {family.kind}"


def measured(family):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of the libraries, of their models and versions
        return measure(family)


@pytest.mark.parametrize(
    "family", [f for f in (*TIMM, *TRANSFORMERS) if (f.name, f.kind) in QUICK], ids=name_of
)
def test_common_models_keep_their_function(family):
    actual = measured(family)
    assert judged(actual) == "exact", actual


@pytest.mark.slow
@pytest.mark.parametrize("family", [*TIMM, *TRANSFORMERS], ids=name_of)
def test_no_growth_is_wrong_without_a_word(family):
    actual = measured(family)
    assert not judged(actual).startswith("WRONG"), actual
    if judged(actual) == "refused":
        assert "teacher" in actual.reasons[0]
        assert "student" in actual.reasons[0]
