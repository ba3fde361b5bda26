"""Pairs of models of timm and transformers, with random weights; nothing is downloaded."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import nn

from benchmarks.zoo import Family

Options = Mapping[str, Any]
TIMM_KINDS = ("width", "depth", "width and depth", "classes", "channels", "image size")
TRANSFORMERS_KINDS = (
    "more heads",
    "wider heads",
    "hidden units",
    "depth",
    "width and depth",
    "vocabulary",
    "positions",
    "classes",
)


def timm_model(name: str, options: Options) -> nn.Module:
    """timm's model of this name with ten classes; ``module.Class`` is a class of ``timm.models``."""
    home, _, kind = name.partition(".")
    given = {"num_classes": 10, **options}
    if kind:
        make: Callable[..., nn.Module] = getattr(
            importlib.import_module(f"timm.models.{home}"), kind
        )
        return make(**given)
    made: nn.Module = importlib.import_module("timm").create_model(name, **given)
    return made


def timm_pair(
    kind: str,
    teacher: str,
    student: str | None = None,
    *,
    small: Options | None = None,
    large: Options | None = None,
    both: Options | None = None,
    family: str | None = None,
    size: int = 64,
    channels: int = 3,
    **rest: Any,
) -> Family:
    """A growth of timm's ``teacher`` into ``student``, by default the same name with other options."""
    same = both or {}
    return Family(
        family or teacher,
        partial(timm_model, teacher, {**same, **(small or {})}),
        partial(timm_model, student or teacher, {**same, **(large or {})}),
        shape=(channels, size, size),
        kind=kind,
        **rest,
    )


def sized(
    family: str, name: str, kinds: Mapping[str, tuple[Options, Options]], **both: Any
) -> list[Family]:
    """Several growths of a model whose images have a fixed size of 64."""
    given = {"img_size": 64, **both}
    return [
        timm_pair(kind, name, small=small, large=large, both=given, family=family)
        for kind, (small, large) in kinds.items()
    ]


def transformer(width: int, heads: int, depth: int) -> Options:
    return {"embed_dim": width, "num_heads": heads, "depth": depth}


VITS: dict[str, tuple[Options, Options]] = {
    "width": (transformer(48, 3, 2), transformer(96, 6, 2)),
    "depth": (transformer(48, 3, 2), transformer(48, 3, 4)),
    "width and depth": (transformer(48, 3, 2), transformer(96, 6, 3)),
}
SWINS: dict[str, tuple[Options, Options]] = {
    "width": ({"embed_dim": 24, "num_heads": (1, 2)}, {"embed_dim": 48, "num_heads": (2, 4)}),
    "depth": ({"depths": (2, 2)}, {"depths": (2, 4)}),
}
NARROW = {"channels": (16, 32, 64, 128)}
WIDE = {"channels": (32, 64, 128, 256)}
ONCE, TWICE = {"layers": (1, 1, 1, 1)}, {"layers": (2, 2, 2, 2)}

TIMM = [
    timm_pair("width", "resnet18", small=NARROW, large=WIDE, family="ResNet"),
    timm_pair("depth", "resnet18", "resnet34", family="ResNet"),
    timm_pair("width and depth", "resnet14t", "resnet26t", family="ResNet"),
    timm_pair("classes", "resnet18", large={"num_classes": 20}, both=NARROW, family="ResNet"),
    timm_pair("channels", "resnet18", small={"in_chans": 1}, both=NARROW, channels=1, family="ResNet"),
    timm_pair("width", "resnet50", "wide_resnet50_2", both=ONCE, family="ResNet, bottleneck"),
    timm_pair("depth", "resnet26", small=ONCE, large=TWICE, both=NARROW, family="ResNet, bottleneck"),
    timm_pair("width", "resnext50_32x4d", small={"base_width": 4}, large={"base_width": 8},
              both={**ONCE, "cardinality": 8}, family="ResNeXt"),
    timm_pair("depth", "seresnet18", "seresnet34", family="SE-ResNet"),
    timm_pair("depth", "ecaresnet26t", small=ONCE, large=TWICE, family="ECA-ResNet"),
    timm_pair("width", "resnetv2_50", small=NARROW, large=WIDE, both=ONCE, family="ResNet V2"),
    timm_pair("depth", "resnetv2_18", "resnetv2_34", family="ResNet V2"),
    timm_pair("width", "res2net50_26w_4s", "res2net50_26w_6s", both=ONCE, family="Res2Net"),
    timm_pair("depth", "skresnet18", "skresnet34", family="SK-ResNet"),
    timm_pair("depth", "densenet121", small={"block_config": (2, 2, 2, 2)}, large={"block_config": (2, 3, 3, 2)},
              family="DenseNet"),
    timm_pair("depth", "vgg11_bn", "vgg13_bn", both={"mlp_ratio": 0.03}, family="VGG"),
    timm_pair("width and depth", "regnetx_002", "regnetx_004", family="RegNetX"),
    timm_pair("width and depth", "regnety_002", "regnety_004", family="RegNetY"),
    timm_pair("width and depth", "hrnet_w18_small", "hrnet_w18_small_v2", family="HRNet"),
    timm_pair("depth", "ese_vovnet39b", "ese_vovnet57b", family="VoVNet"),
    timm_pair("width and depth", "ese_vovnet19b_dw", "ese_vovnet39b", family="VoVNet"),
    timm_pair("width and depth", "cs3darknet_s", "cs3darknet_m", family="CSPNet"),
    timm_pair("depth", "nf_resnet26", "nf_resnet50", family="NFNet"),
    timm_pair("width and depth", "repvgg_a0", "repvgg_a1", family="RepVGG"),
    timm_pair("width", "mobileone_s1", "mobileone_s2", family="MobileOne"),
    timm_pair("width and depth", "hgnetv2_b0", "hgnetv2_b1", family="HGNet V2"),
    timm_pair("width and depth", "efficientnet_b0", "efficientnet_b1", family="EfficientNet"),
    timm_pair("classes", "efficientnet_b0", large={"num_classes": 20}, family="EfficientNet"),
    timm_pair("width and depth", "tf_efficientnetv2_b0", "tf_efficientnetv2_b1", family="EfficientNet V2"),
    timm_pair("width", "mobilenetv2_050", "mobilenetv2_100", family="MobileNet V2"),
    timm_pair("width and depth", "mobilenetv2_100", "mobilenetv2_110d", family="MobileNet V2"),
    timm_pair("width", "mobilenetv3_large_075", "mobilenetv3_large_100", family="MobileNet V3"),
    timm_pair("width", "mobilenetv4_conv_small_050", "mobilenetv4_conv_small", family="MobileNet V4"),
    timm_pair("width", "mnasnet_050", "mnasnet_100", family="MNASNet"),
    timm_pair("width", "lcnet_050", "lcnet_100", family="LCNet"),
    timm_pair("width and depth", "mixnet_s", "mixnet_m", family="MixNet"),
    timm_pair("width", "ghostnet_050", "ghostnet_100", family="GhostNet"),
    timm_pair("width", "rexnet_100", "rexnet_150", family="ReXNet"),
    timm_pair("width", "convnext_atto", small={"dims": (16, 32, 64, 128)}, large={"dims": (32, 64, 128, 256)},
              family="ConvNeXt"),
    timm_pair("depth", "convnext_atto", small={"depths": (1, 1, 2, 1)}, large={"depths": (2, 2, 4, 2)},
              family="ConvNeXt"),
    timm_pair("classes", "convnext_atto", large={"num_classes": 20}, family="ConvNeXt"),
    timm_pair("depth", "convnextv2_atto", small={"depths": (1, 1, 2, 1)}, large={"depths": (2, 2, 4, 2)},
              family="ConvNeXt V2"),
    timm_pair("depth", "poolformer_s12", "poolformer_s24", family="PoolFormer"),
    timm_pair("width and depth", "convmixer.ConvMixer", small={"dim": 32, "depth": 2}, large={"dim": 64, "depth": 3},
              family="ConvMixer"),
    timm_pair("depth", "fastvit_t8", "fastvit_t12", family="FastViT"),
    timm_pair("width and depth", "repvit_m0_9", "repvit_m1_0", family="RepViT"),
    timm_pair("width", "starnet_s1", small={"base_dim": 12}, large={"base_dim": 24}, family="StarNet"),
    *sized("ViT", "vit_tiny_patch16_224", VITS),
    timm_pair("classes", "vit_tiny_patch16_224", large={"num_classes": 20},
              both={"img_size": 64, **transformer(48, 3, 2)}, family="ViT"),
    *sized("ViT, SigLIP", "vit_base_patch16_siglip_224", VITS),
    *sized("ViT, CLIP", "vit_base_patch16_clip_224", VITS),
    *sized("DeiT", "deit_tiny_distilled_patch16_224", VITS),
    *sized("DeiT III", "deit3_small_patch16_224", VITS),
    *sized("BEiT", "beit_base_patch16_224", VITS),
    *sized("Swin", "swin_tiny_patch4_window7_224", SWINS, window_size=4, depths=(2, 2), embed_dim=24, num_heads=(1, 2)),
    *sized("Swin V2", "swinv2_tiny_window8_256", SWINS, window_size=4, depths=(2, 2), embed_dim=24, num_heads=(1, 2)),
    timm_pair("width and depth", "hiera_tiny_224", "hiera_small_224", both={"img_size": 64}, family="Hiera"),
    timm_pair("depth", "davit_tiny", small={"depths": (1, 1)}, large={"depths": (1, 3)},
              both={"embed_dims": (24, 48), "num_heads": (1, 2)}, family="DaViT"),
    timm_pair("width and depth", "mlp_mixer.MlpMixer", small={"embed_dim": 32, "num_blocks": 2},
              large={"embed_dim": 64, "num_blocks": 3}, both={"img_size": 64}, family="MLP-Mixer"),
    *sized("CaiT", "cait_xxs24_224", VITS),
    timm_pair("width", "xcit_nano_12_p16_224", small={"embed_dim": 32, "num_heads": 2},
              large={"embed_dim": 64, "num_heads": 4}, both={"depth": 2, "img_size": 64}, family="XCiT"),
    timm_pair("width and depth", "coatnet_pico_rw_224", "coatnet_nano_rw_224", both={"img_size": 64}, family="CoAtNet"),
    timm_pair("width and depth", "levit_128s", "levit_192", both={"img_size": 64}, family="LeViT"),
    timm_pair("width", "tiny_vit_5m_224", "tiny_vit_11m_224", family="TinyViT"),
    timm_pair("depth", "focalnet.FocalNet", small={"depths": (1, 1, 1, 1)}, large={"depths": (2, 2, 3, 2)},
              both={"embed_dim": 24}, family="FocalNet"),
    timm_pair("width", "mobilevitv2_050", "mobilevitv2_100", family="MobileViT V2"),
    timm_pair("width and depth", "efficientvit_b0", "efficientvit_b1", family="EfficientViT"),
    timm_pair("depth", "mvitv2_tiny", "mvitv2_small", both={"img_size": 64}, family="MViT V2"),
]  # fmt: skip


def transformers_model(model: str, config: str, options: Options) -> nn.Module:
    home = importlib.import_module("transformers")
    made: nn.Module = getattr(home, model)(getattr(home, config)(**options))
    return made


def transformers_pairs(
    family: str,
    model: str,
    base: Options,
    kinds: Mapping[str, Options],
    config: str | None = None,
    **rest: Any,
) -> list[Family]:
    """A growth for each kind: the values of the configuration that the student has."""
    given = {"vocabulary": base["vocab_size"], "shape": (7,)} if "vocab_size" in base else {}
    config = config or model.partition("For")[0].removesuffix("LMHeadModel") + "Config"
    return [
        Family(
            family,
            partial(transformers_model, model, config, base),
            partial(transformers_model, model, config, {**base, **change}),
            kind=kind,
            **{**given, **rest},
        )
        for kind, change in kinds.items()
    ]


SMALL = {
    "vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "max_position_embeddings": 32,
}  # fmt: skip
KINDS: dict[str, Options] = {
    "more heads": {"hidden_size": 64, "num_attention_heads": 8},
    "wider heads": {"hidden_size": 64},
    "hidden units": {"intermediate_size": 96},
    "depth": {"num_hidden_layers": 3},
    "width and depth": {"hidden_size": 64, "num_attention_heads": 8, "num_hidden_layers": 3},
    "vocabulary": {"vocab_size": 130},
    "positions": {"max_position_embeddings": 48},
}
CLASSES = {"num_labels": 5}
GROUPED = {**SMALL, "num_key_value_heads": 2}
GROUPED_KINDS = {
    **KINDS,
    "more heads": {**KINDS["more heads"], "num_key_value_heads": 4},
    "width and depth": {**KINDS["width and depth"], "num_key_value_heads": 4},
}
HEADED = {**GROUPED, "head_dim": 8}
HEADED_KINDS = {**GROUPED_KINDS, "wider heads": {"head_dim": 16}}
GPT2 = {"vocab_size": 100, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32}
GPT2_KINDS: dict[str, Options] = {
    "more heads": {"n_embd": 64, "n_head": 8},
    "wider heads": {"n_embd": 64},
    "hidden units": {"n_inner": 192},
    "depth": {"n_layer": 3},
    "width and depth": {"n_embd": 64, "n_head": 8, "n_layer": 3},
    "vocabulary": {"vocab_size": 130},
    "positions": {"n_positions": 48},
}
T5 = {
    "vocab_size": 100,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 2,
    "num_heads": 4,
    "num_labels": 5,
}
IMAGE = {
    "image_size": 32, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 64, "num_labels": 5,
}  # fmt: skip
IMAGE_KINDS = {k: v for k, v in KINDS.items() if k not in ("vocabulary", "positions")}
MORE_CLASSES: dict[str, Options] = {"classes": {"num_labels": 7}}

TRANSFORMERS = [
    *transformers_pairs("BERT", "BertForSequenceClassification", SMALL | CLASSES, KINDS | MORE_CLASSES),
    *transformers_pairs("RoBERTa", "RobertaForSequenceClassification", SMALL | CLASSES, KINDS),
    *transformers_pairs(
        "DistilBERT", "DistilBertForSequenceClassification",
        {"vocab_size": 100, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "num_labels": 5},
        {"more heads": {"dim": 64, "n_heads": 8}, "wider heads": {"dim": 64}, "hidden units": {"hidden_dim": 96},
         "depth": {"n_layers": 3}, "vocabulary": {"vocab_size": 130}},
    ),
    *transformers_pairs(
        "DeBERTa V2", "DebertaV2ForSequenceClassification",
        {**SMALL, **CLASSES, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "max_relative_positions": 8},
        {k: v for k, v in KINDS.items() if k != "positions"},
    ),
    *transformers_pairs("GPT-2", "GPT2LMHeadModel", GPT2, GPT2_KINDS),
    *transformers_pairs("GPT-NeoX", "GPTNeoXForCausalLM", SMALL, KINDS),
    *transformers_pairs("LLaMA", "LlamaForCausalLM", GROUPED, GROUPED_KINDS),
    *transformers_pairs("Mistral", "MistralForCausalLM", GROUPED, GROUPED_KINDS),
    *transformers_pairs("Qwen2", "Qwen2ForCausalLM", GROUPED, GROUPED_KINDS),
    *transformers_pairs("Qwen3", "Qwen3ForCausalLM", HEADED, HEADED_KINDS),
    *transformers_pairs("Gemma 2", "Gemma2ForCausalLM", {**HEADED, "query_pre_attn_scalar": 8}, HEADED_KINDS),
    *transformers_pairs("Phi", "PhiForCausalLM", SMALL, KINDS),
    *transformers_pairs(
        "Mamba", "MambaForCausalLM",
        {"vocab_size": 100, "hidden_size": 32, "state_size": 4, "num_hidden_layers": 2, "conv_kernel": 4,
         "time_step_rank": 2},
        {"hidden units": {"intermediate_size": 96}, "depth": {"num_hidden_layers": 3},
         "vocabulary": {"vocab_size": 130}},
    ),
    *transformers_pairs(
        "T5 encoder", "T5ForTokenClassification", T5,
        {"more heads": {"d_model": 64, "num_heads": 8}, "hidden units": {"d_ff": 96}, "depth": {"num_layers": 3},
         "vocabulary": {"vocab_size": 130}},
    ),
    *transformers_pairs(
        "ViT", "ViTForImageClassification", IMAGE, IMAGE_KINDS | MORE_CLASSES, shape=(3, 32, 32)
    ),
    *transformers_pairs(
        "ConvNeXt V2", "ConvNextV2ForImageClassification",
        {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "num_labels": 5, "image_size": 64},
        {"hidden units": {"hidden_sizes": [16, 32, 48, 64]}, "depth": {"depths": [2, 2, 2, 2]}},
    ),
]  # fmt: skip
