"""`phiopt map` and `phiopt grow`, from file to file."""

import json

import pytest
import torch
from safetensors.torch import save_file

pytest.importorskip("typer", reason="the command line needs phiopt[families]")
timm = pytest.importorskip("timm", reason="needs phiopt[families]")
transformers = pytest.importorskip("transformers", reason="needs phiopt[families]")

from transformers.models.auto.configuration_auto import CONFIG_MAPPING  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

from phiopt.cli.commands import FILLS, app  # noqa: E402
from phiopt.cli.sources import check_architecture, check_source  # noqa: E402
from phiopt.growth.registry import OWN  # noqa: E402
from tests.light import check_answered_lightly  # noqa: E402

VIT = {
    "img_size": 32,
    "patch_size": 8,
    "embed_dim": 16,
    "num_heads": 2,
    "depth": 2,
    "num_classes": 5,
}
BERT = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 16,
    "num_labels": 3,
}
GPT2 = {
    "vocab_size": 50,
    "n_embd": 16,
    "n_layer": 2,
    "n_head": 2,
    "n_positions": 16,
    "use_cache": False,
}


def run(*given):
    return CliRunner().invoke(app, [str(word) for word in given])


def options(name, values):
    return [word for key, value in values.items() for word in (f"--{name}", f"{key}={value}")]


def timm_files(folder):
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", **VIT).eval()
    with torch.no_grad():
        model.head.weight.normal_()
    save_file(model.state_dict(), folder / "teacher.safetensors")
    return model, folder / "teacher.safetensors"


def test_a_timm_model_grows_from_file_to_file(tmp_path):
    teacher, weights = timm_files(tmp_path)
    name, out = "vit_tiny_patch16_224", tmp_path / "grown"
    result = run(
        "grow", name, name, "-o", out, "--teacher-weights", weights, *options("option", VIT),
        "--student-option", "depth=3", "--student-option", "num_classes=7",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "the function is kept" in result.output
    grown = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(grown(x)[:, :5], teacher(x), rtol=1e-4, atol=1e-5)
    assert len(grown.blocks) == 3
    assert grown(x).shape == (2, 7)


@pytest.mark.parametrize("kind", ["from a folder", "from a type and a file"])
def test_a_transformers_model_grows_from_file_to_file(tmp_path, kind):
    torch.manual_seed(0)
    teacher = transformers.GPT2LMHeadModel(transformers.GPT2Config(**GPT2)).eval()
    source, out = tmp_path / "teacher", tmp_path / "grown"
    teacher.save_pretrained(source)
    if kind == "from a folder":
        given = [source, source, "--student-option", "n_layer=3"]
    else:
        given = ["gpt2", "gpt2", *options("option", GPT2), "--student-option", "n_layer=3",
                 "--architecture", "GPT2LMHeadModel", "--teacher-weights", source / "model.safetensors"]  # fmt: skip
    result = run("grow", *given, "-o", out)
    assert result.exit_code == 0, result.output
    assert "the function is kept" in result.output
    grown = transformers.AutoModelForCausalLM.from_pretrained(out).eval()
    tokens = torch.randint(50, (2, 7))
    torch.testing.assert_close(grown(tokens).logits, teacher(tokens).logits, rtol=1e-4, atol=1e-5)
    assert grown.config.n_layer == 3
    assert grown.lm_head.weight is grown.transformer.wte.weight


def test_map_prints_the_table_and_saves_the_map(tmp_path):
    name = "vit_tiny_patch16_224"
    saved = tmp_path / "map.safetensors"
    result = run(
        "map", name, name, *options("option", VIT), "--student-option", "depth=3", "--save", saved
    )
    assert result.exit_code == 0, result.output
    assert "blocks.0.attn.qkv.weight" in result.output
    assert saved.exists()


MISTAKES = [
    (["map", "resnet17", "resnet18"], "teacher: got 'resnet17', must be a timm name"),
    (["map", "resnet18", "nothing/here"], "student: got 'nothing/here', must be a timm name"),
    (["map", "gpt2", "gpt2"], "does not say which class is meant; pass it, as --architecture"),
    (["map", "gpt2", "gpt2", "--architecture", "GPT3"], "got the architecture 'GPT3', must be a"),
    (["map", "resnet18", "resnet18", "--option", "depth"], "got 'depth', must be NAME=VALUE"),
    (["map", "resnet18", "resnet18", "--option", "no_such=1"], "timm cannot make 'resnet18' with"),
    (["grow", "resnet18", "resnet34", "-o", "{new}"], "--teacher-weights: none given, must be"),
    (["grow", "resnet18", "resnet34", "-o", "{full}"], "exists, must be a new or an empty folder"),
    (
        ["grow", "resnet18", "resnet34", "-o", "{new}", "--teacher-weights", "{text}"],
        "cannot be read",
    ),
    (["frobnicate"], "No such command 'frobnicate'"),
    (["map", "{text}", "resnet18"], "is no JSON file"),
    (["map", "{other}", "resnet18"], "is no configuration of timm"),
    (["map", "timm:nonsense", "resnet18"], "teacher: got 'timm:nonsense', must be a timm name"),
    (["map", "resnet18"], "Missing argument 'student'"),
    (
        ["grow", "gpt2", "gpt2", "-o", "{new}", "--teacher-weights", "{text}", "--fill", "nil"],
        "--fill: got 'nil', must be one of default",
    ),
    (
        ["grow", "gpt2", "gpt2", "-o", "{new}", "--teacher-weights", "{text}", "--seed", "-1"],
        "Invalid value for '--seed'",
    ),
    (
        [
            "grow",
            "gpt2",
            "gpt2",
            "-o",
            "{new}",
            "--teacher-weights",
            "{text}",
            "--optimizer",
            "nil",
        ],
        "--optimizer: nil does not exist",
    ),
    (["map", "gpt2", "gpt2", "--correspondence", "a"], "got 'a', must be TEACHER=STUDENT"),
    (["map", "gpt2", "gpt2", "--save", "{full}"], "--save: got '"),
]
SLOW = ("does not say which class", "timm cannot make", "cannot be read")
"""Mistakes that only the library of the models can see."""


def made(folder):
    """The files and folders that mistakes are made with."""
    full, text, other = folder / "full", folder / "text", folder / "other.json"
    full.mkdir()
    (full / "a").write_text("")
    text.write_text("no file of weights")
    other.write_text(json.dumps({"a": 1}))
    return {"{new}": folder / "new", "{full}": full, "{text}": text, "{other}": other}


@pytest.mark.parametrize(("given", "message"), MISTAKES, ids=[m for _, m in MISTAKES])
def test_a_mistake_is_one_line_and_status_2(tmp_path, given, message):
    places = made(tmp_path)
    result = run(*(places.get(word, word) for word in given))
    assert result.exit_code == 2
    lines = result.output.strip().splitlines()
    assert len(lines) == 1, result.output
    assert lines[0].startswith("error: ")
    assert message in lines[0]
    assert not (tmp_path / "new").exists()


def test_a_mistake_is_answered_before_anything_heavy_is_loaded(tmp_path):
    places = made(tmp_path)
    given = [
        [str(places.get(word, word)) for word in words]
        for words, message in MISTAKES
        if not any(slow in message for slow in SLOW)
    ]
    assert len(given) > 12
    heavy = {"torch", "numpy", "scipy", "timm", "transformers", "safetensors"}
    check_answered_lightly("phiopt.cli", given, heavy)


def test_the_fills_are_those_of_the_library():
    assert set(FILLS) == OWN


def test_every_name_of_the_libraries_is_let_through():
    known = [*timm.list_models()[::40], *list(CONFIG_MAPPING.keys())[::20]]
    for name in [*known, "resnet50.a1_in1k", "timm:resnet18", "transformers:gpt2"]:
        check_source("teacher", name)
    for name in ("GPT2LMHeadModel", "AutoModelForCausalLM", "GPT2DoubleHeadsModel"):
        check_architecture(name)


@pytest.mark.slow
def test_every_name_of_the_libraries_is_let_through_one_by_one():
    for name in [*timm.models._registry._model_entrypoints, *CONFIG_MAPPING.keys()]:
        check_source("teacher", name)


def test_weights_of_another_model_are_refused_and_nothing_is_written(tmp_path):
    config = transformers.BertConfig(**BERT)
    transformers.BertModel(config).save_pretrained(tmp_path / "base")
    result = run(
        "grow", "bert", "bert", *options("option", BERT), "--student-option", "num_hidden_layers=3",
        "--architecture", "BertForSequenceClassification", "-o", tmp_path / "out",
        "--teacher-weights", tmp_path / "base" / "model.safetensors",
    )  # fmt: skip
    assert result.exit_code == 2
    assert "are not those of the configuration: missing keys classifier" in result.output
    assert sorted(p.name for p in tmp_path.iterdir()) == ["base"]
