"""Rarer models of timm and transformers: what is exact stays so, and the rest is said in advance."""

import pytest

pytest.importorskip("timm", reason="needs phiopt[families]")
pytest.importorskip("transformers", reason="needs phiopt[families]")

from benchmarks.families import judged
from benchmarks.libraries import CLASSES, SMALL, timm_pair, transformers_pairs
from tests.growth.test_libraries import measured, name_of

FUNNEL = {
    "vocab_size": 100, "block_sizes": [1, 1], "num_decoder_layers": 1, "d_model": 32, "n_head": 4, "d_head": 8,
    "d_inner": 64, "num_labels": 5,
}  # fmt: skip
XLNET = {"vocab_size": 100, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64, **CLASSES}
RWKV = {"vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2, "context_length": 16}
VOLO = {
    "img_size": 64, "num_heads": (2, 4, 4, 4), "outlook_attention": (True, False, False, False),
    "downsamples": (True, False, False, False), "post_layers": ("ca", "ca"), "mlp_ratio": 3.0, "layers": (1, 1, 1, 1),
}  # fmt: skip
ONCE = {"layers": (1, 1, 1, 1)}
EXACT = [
    timm_pair("width", "volo.VOLO", small={"embed_dims": (32, 64, 64, 64)},
              large={"embed_dims": (64, 128, 128, 128)}, both=VOLO),
    timm_pair("width", "res2net50_26w_4s", "res2net50_26w_8s", both=ONCE),
    timm_pair("depth", "dla60", "dla102"),
    *transformers_pairs(
        "Longformer", "LongformerForSequenceClassification", {**SMALL, **CLASSES, "attention_window": 4},
        {"more heads": {"hidden_size": 64, "num_attention_heads": 8}}, shape=(8,),
    ),
    *transformers_pairs(
        "Funnel", "FunnelForSequenceClassification", FUNNEL, {"more heads": {"d_model": 64, "n_head": 8}}, shape=(8,)
    ),
    *transformers_pairs(
        "XLNet", "XLNetForSequenceClassification", XLNET, {"more heads": {"d_model": 64, "n_head": 8}}
    ),
    *transformers_pairs(
        "RWKV", "RwkvForCausalLM", {**RWKV, "use_cache": False},
        {"wider heads": {"hidden_size": 64}, "hidden units": {"intermediate_size": 192}},
    ),
]  # fmt: skip
SAID = [
    timm_pair("width", "levit_128", "levit_256", both={"img_size": 64}),
    timm_pair("width and depth", "gernet_s", "gernet_m"),
    timm_pair("depth", "nextvit_small", "nextvit_base"),
    *transformers_pairs(
        "FNet", "FNetForSequenceClassification", {**SMALL, **CLASSES, "tpu_short_seq_length": 7},
        {"wider heads": {"hidden_size": 64}},
    ),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("family", EXACT, ids=name_of)
def test_rarer_models_keep_their_function(family):
    actual = measured(family)
    assert judged(actual) == "exact", actual


@pytest.mark.slow
@pytest.mark.parametrize("family", SAID, ids=name_of)
def test_what_cannot_be_kept_is_said_and_not_refused(family):
    actual = measured(family)
    assert actual.reasons
    assert not judged(actual).startswith(("WRONG", "refused")), actual
