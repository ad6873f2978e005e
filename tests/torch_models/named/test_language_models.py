"""Language models of transformers by name: a folder, a repository in the cache, and what is refused."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from local_models import COMMIT, OLDER, TEXT, bert, cached, gpt2, llama, tokenizer, use_caches

import nearzero as nz
from nearzero.torch_models.named.packages import imported

LAYER = "transformer.h.0.mlp.act"


def logit(logits, target):
    """Return the logit of the target, a metric whose items compare bit for bit."""
    return logits.gather(1, target[:, None])[:, 0]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return gpt2(tmp_path_factory.mktemp("model") / "gpt2")


@pytest.fixture
def text(tmp_path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    return use_caches(monkeypatch, tmp_path / "caches")


def by_hand(folder: Path, texts: list[str], size: int, scale: float) -> torch.Tensor:
    """Return the target's logit at each token that predicts another, by a loop over the library's own pipeline."""
    transformers = imported("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder))
    tokenizer.pad_token = tokenizer.eos_token
    model = transformers.AutoModelForCausalLM.from_pretrained(str(folder)).eval()
    model.transformer.h[0].mlp.act.register_forward_pre_hook(lambda module, given: (given[0] * scale,))
    tokens = [token for each in texts for token in tokenizer(each)["input_ids"]]
    blocks = [tokens[start : start + size] for start in range(0, len(tokens), size)]
    batch = tokenizer.pad({"input_ids": [block for block in blocks if len(block) > 1]}, return_tensors="pt")
    with torch.no_grad():
        logits = model(**batch).logits[:, :-1]
    following = batch["input_ids"][:, 1:]
    return logits.gather(2, following[..., None])[..., 0][batch["attention_mask"][:, 1:] == 1]


@pytest.mark.parametrize("block", [None, 7])
def test_a_text_file_equals_a_loop_by_hand_bit_for_bit(model, text, block) -> None:
    result = nz.probe(
        f"hf:{model}",
        str(text),
        LAYER,
        families="scale",
        levels=[0.5, 3.0],
        metrics={"logit": logit},
        keep_items=True,
        loading=nz.Loading(block=block),
    )
    items = result.response.logit_items.sel(layer=LAYER, family="scale")
    for level in (0.5, 3.0):
        assert items.sel(level=level).values.tolist() == by_hand(model, [TEXT], block or 24, level).tolist()
    plain = by_hand(model, [TEXT], block or 24, 1.0)
    assert result.response.unperturbed_logit_items.values.tolist() == plain.tolist()
    assert result.response.causal == 1


def test_the_result_keeps_name_and_hash(model, text, tmp_path) -> None:
    result = nz.probe(f"hf:{model}", str(text), LAYER, levels=2)
    expected = hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest()
    again = nz.ProbeResult.open(result.save(tmp_path / "kept"))
    for each in (result, again):
        assert each.origins["model"].files == {"model.safetensors": expected}
        assert each.origins["model"].name == f"hf:{model}"
        files = each.origins["data"].files
        assert files["text.txt"] == hashlib.sha256(TEXT.encode()).hexdigest()
        tokens = imported("transformers").AutoTokenizer.from_pretrained(str(model))(TEXT)["input_ids"]
        assert list(files)[1:] == [f"{-(-len(tokens) // 24)} blocks of tokens"]
    assert (
        json.loads(result.response.attrs["versions"])["transformers"] == imported("transformers").__version__
    )


def test_what_was_inferred_is_in_the_table(model, text) -> None:
    result = nz.probe(f"hf:{model}", str(text), LAYER, levels=2)
    table = {row.what: (row.value, row.argument) for row in result.assumptions}
    assert table["class of the model"] == ("AutoModelForCausalLM, GPT2LMHeadModel", "Loading(auto_class=)")
    assert table["blocks"][0].startswith("9 of 24 tokens") or "of 24 tokens" in table["blocks"][0]
    assert table["precision of the weights"] == ("float32", "Loading(dtype=)")


def test_a_repository_of_the_cache_and_its_revisions(model, text, cache, tmp_path) -> None:
    other = gpt2(tmp_path / "older", seed=1)
    cached(cache, "org/name", model)
    cached(cache, "org/name", other, commit=OLDER, ref="v1.0")
    for name, folder, commit in (
        ("hf:org/name", model, COMMIT),
        ("hf:org/name@v1.0", other, OLDER),
        (f"hf:org/name@{OLDER}", other, OLDER),
    ):
        result = nz.probe(name, str(text), LAYER, levels=2, metrics=["cross_entropy"])
        expected = nz.probe(f"hf:{folder}", str(text), LAYER, levels=2, metrics=["cross_entropy"])
        assert result.response.cross_entropy.equals(expected.response.cross_entropy)
        assert result.origins["model"].revision == commit
        assert result.origins["model"].files == expected.origins["model"].files


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hf:org/nane", "the cache has no model 'org/nane'; did you mean 'org/name'?"),
        ("hf:org/name@v1.1", "org/name has no revision 'v1.1': did you mean 'v1.0'? known are v1.0"),
        ("hf:org/name@", "a revision follows the name and an @"),
        ("hf:", "names a model after the colon"),
        ("hf:a b", "isn't the name of a model, org/name"),
    ],
)
def test_a_wrong_name_gets_one_line(model, text, cache, name, message) -> None:
    cached(cache, "org/name", model, ref="v1.0")
    with pytest.raises(nz.InputError) as caught:
        nz.probe(name, str(text))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_a_main_revision_those_that_are_there_are_named(model, text, cache) -> None:
    cached(cache, "org/name", model, ref="v1.0")
    with pytest.raises(nz.InputError, match=r"no revision 'main': known are v1.0, a{40}"):
        nz.probe("hf:org/name", str(text))


def test_a_hub_that_cannot_be_reached_is_one_line_at_once(text, cache, monkeypatch) -> None:
    constants = imported("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(
        nz.InputError, match=r"the hub can't be reached, and the cache has no model 'org/name'"
    ):
        nz.probe("hf:org/name", str(text))


def test_an_unreachable_hub_leaves_the_cache(model, text, cache, monkeypatch) -> None:
    cached(cache, "org/name", model)
    constants = imported("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert nz.probe("hf:org/name", str(text), LAYER, levels=2).origins["model"].revision == COMMIT
    assert constants.HF_HUB_OFFLINE is False


def test_missing_weights_are_refused(tmp_path, text) -> None:
    folder = bert(tmp_path / "bert", ["a", "b"], "BertForMaskedLM")
    with pytest.raises(
        nz.InputError, match=r"lack .*classifier\.bias.*; choose another class with auto_class"
    ):
        nz.probe(
            f"hf:{folder}", str(text), loading=nz.Loading(auto_class="AutoModelForSequenceClassification")
        )


def test_another_architecture_is_refused_and_can_be_overruled(tmp_path, model, text) -> None:
    path = model / "config.json"
    folder = tmp_path / "copy"
    folder.mkdir()
    for file in model.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads(path.read_text()) | {"architectures": ["GPT2Model"]}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        nz.InputError, match="architectures GPT2Model, which is none of these classes; choose"
    ):
        nz.probe(f"hf:{folder}", str(text))
    loading = nz.Loading(auto_class="AutoModelForCausalLM")
    assert nz.probe(f"hf:{folder}", str(text), LAYER, levels=2, loading=loading).response.attrs["items"]


def test_code_of_a_repository_is_never_run(tmp_path, model, text) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    for file in model.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = {"model_type": "own", "architectures": ["Own"], "auto_map": {"AutoConfig": "own.Config"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text("raise SystemExit('run')")
    with pytest.raises(nz.InputError, match="needs code of its own, which isn't run"):
        nz.probe(f"hf:{folder}", str(text))


def test_pickled_weights_are_read_as_tensors_alone(tmp_path, model, text) -> None:
    folder = tmp_path / "pickled"
    folder.mkdir()
    for file in model.iterdir():
        if file.suffix != ".safetensors":
            (folder / file.name).write_bytes(file.read_bytes())
    from safetensors.torch import load_file

    state = load_file(model / "model.safetensors")
    torch.save(state, folder / "pytorch_model.bin")
    expected = nz.probe(f"hf:{model}", str(text), LAYER, levels=2)
    found = nz.probe(f"hf:{folder}", str(text), LAYER, levels=2)
    assert found.response.accuracy.equals(expected.response.accuracy)
    assert list(found.origins["model"].files) == ["pytorch_model.bin"]
    torch.save(state | {"hidden": Path("x")}, folder / "pytorch_model.bin")
    with pytest.raises(
        nz.InputError, match=r"hold more than tensors, and nothing is unpickled; save them as saf"
    ):
        nz.probe(f"hf:{folder}", str(text))


def test_weights_of_another_shape_are_named(tmp_path, model, text) -> None:
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(model, tmp_path / "other")
    state = load_file(folder / "model.safetensors")
    state["transformer.h.0.mlp.c_fc.bias"] = torch.zeros(3)
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        nz.InputError, match=r"have other shapes for transformer\.h\.0\.mlp\.c_fc\.bias, which"
    ):
        nz.probe(f"hf:{folder}", str(text))


def test_a_folder_without_a_tokenizer_asks_for_one(tmp_path, model, text) -> None:
    """For some models transformers then makes one that knows its special tokens alone."""
    masked = bert(tmp_path / "masked", ["a", "b"], "BertForMaskedLM")
    for file in masked.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(nz.InputError, match="holds no tokenizer; name a model with one by preprocess"):
        nz.probe(f"hf:{masked}", str(text))
    folder = shutil.copytree(model, tmp_path / "alone", ignore=shutil.ignore_patterns("tokenizer*"))
    with pytest.raises(nz.InputError, match="holds no tokenizer; name a model with one by preprocess"):
        nz.probe(f"hf:{folder}", str(text))
    loading = nz.Loading(preprocess=f"hf:{model}")
    found = nz.probe(f"hf:{folder}", str(text), LAYER, levels=2, loading=loading)
    assert found.response.accuracy.equals(
        nz.probe(f"hf:{model}", str(text), LAYER, levels=2).response.accuracy
    )


def test_precision_as_saved_or_given(tmp_path, text) -> None:
    folder = gpt2(tmp_path / "half")
    transformers = imported("transformers")
    transformers.GPT2LMHeadModel.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(folder)
    for dtype, expected in ((None, "bfloat16"), ("float32", "float32")):
        result = nz.probe(f"hf:{folder}", str(text), LAYER, levels=2, loading=nz.Loading(dtype=dtype))
        table = {row.what: row.value for row in result.assumptions}
        assert table["precision of the weights"] == expected


def test_lengths_beyond_the_model_are_refused(model, text) -> None:
    with pytest.raises(nz.InputError, match="block is 25 tokens, and the model takes 24"):
        nz.probe(f"hf:{model}", str(text), loading=nz.Loading(block=25))


@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize(
    ("own", "of_model"),
    [(None, None), (None, 5), ("<pad>", None), ("<pad>", 5), ("<pad>", -1), ("<end>", None)],
)
def test_a_classifier_reads_the_last_token_of_each_text(tmp_path, own, of_model, ends) -> None:
    """It finds that by the padding token of its configuration, which may be another than the tokenizer's, or none.

    Where it has none, a token that the tokenizer puts at the end of each text isn't padding.
    """
    made = tokenizer(**({} if own is None else {"pad_token": own}))
    if ends:
        processors = pytest.importorskip("tokenizers").processors
        whole = {"single": "$A <end>", "special_tokens": [("<end>", 0)]}
        made.backend_tokenizer.post_processor = processors.TemplateProcessing(**whole)
    folder = llama(tmp_path / "llama", made=made, pad_token_id=of_model)
    path = tmp_path / "texts.jsonl"
    texts = ["The cat", "a dog", "The dog ran away from the cat, and the cat", "mat"]
    path.write_text("".join(json.dumps({"text": each, "label": 1}) + "\n" for each in texts))
    settings = {"levels": 1, "metrics": {"logit": logit}, "keep_items": True}
    found = nz.probe(f"hf:{folder}", f"hf:{path}", **settings).response.unperturbed_logit_items.values
    model = imported("transformers").AutoModelForSequenceClassification.from_pretrained(str(folder)).eval()
    with torch.no_grad():
        alone = [float(model(**made(each, return_tensors="pt")).logits[0, 1]) for each in texts]
    assert found == pytest.approx(alone, abs=1e-5)
    assert np.ptp(alone) > 0.1


def test_a_model_that_reads_the_padding_has_a_note(tmp_path) -> None:
    """FNet takes no mask; its numbers depend on the batch, as those of transformers do."""
    transformers = imported("transformers")
    torch.manual_seed(0)
    made = tokenizer(pad_token="<pad>")
    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "intermediate_size": 24,
        "max_position_embeddings": 64,
    }
    config = transformers.FNetConfig(vocab_size=len(made), pad_token_id=1, initializer_range=0.5, **sizes)
    for saved in (transformers.FNetForSequenceClassification(config), made):
        saved.save_pretrained(tmp_path / "fnet")
    path = tmp_path / "texts.jsonl"
    texts = ["The cat", "a dog", "The dog ran away from the cat, and the cat", "mat"]
    path.write_text("".join(json.dumps({"text": each, "label": 1}) + "\n" for each in texts))
    settings = {"levels": 1, "metrics": {"logit": logit}, "keep_items": True}
    together, alone = (
        nz.probe(f"hf:{tmp_path}/fnet", f"hf:{path}", batch_size=size, **settings) for size in (4, 1)
    )
    logits = [each.response.unperturbed_logit_items.values for each in (together, alone)]
    assert abs(logits[0] - logits[1]).max() > 0.01
    assert together.notes == [
        "mask: the model doesn't read it, so that logits of an example depend on how far its batch fills it up"
    ]
    assert alone.notes == []


def test_positions_that_begin_after_the_padding_token(tmp_path) -> None:
    """A table of 24 positions, the first of which is number 6, takes 18 tokens."""
    transformers = imported("transformers")
    made = tokenizer(pad_token="<pad>")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    config = transformers.RobertaConfig(
        vocab_size=len(made), max_position_embeddings=24, pad_token_id=5, **sizes
    )
    for saved in (transformers.RobertaForSequenceClassification(config), made):
        saved.save_pretrained(tmp_path / "roberta")
    (tmp_path / "text.txt").write_text(TEXT)
    result = nz.probe(f"hf:{tmp_path}/roberta", f"{tmp_path}/text.txt", levels=1)
    rows = {row.what: row.value for row in result.assumptions}
    assert rows["texts"] == "one in a row, 1, 1 of which are cut to 18 tokens"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_labels": 1}, "is a model of a regression"),
        ({"problem_type": "regression"}, "is a model of a regression"),
        ({"problem_type": "multi_label_classification"}, "is a model of several labels for an example"),
    ],
)
def test_models_without_classes_are_refused(tmp_path, text, settings, message) -> None:
    folder = llama(tmp_path / "llama", **settings)
    with pytest.raises(nz.InputError, match=message):
        nz.probe(f"hf:{folder}", str(text))


def test_a_model_that_reads_the_token_it_predicts_is_refused(tmp_path, text) -> None:
    folder = bert(tmp_path / "bert", ["a", "b"], "BertLMHeadModel")
    with pytest.raises(
        nz.InputError, match=r"BertLMHeadModel of .* reads later tokens, so it doesn't predict"
    ):
        nz.probe(f"hf:{folder}", str(text))
    decoder = bert(tmp_path / "decoder", ["a", "b"], "BertLMHeadModel", is_decoder=True)
    assert nz.probe(f"hf:{decoder}", str(text), levels=1).response.causal == 1


def test_tokens_that_the_model_does_not_know_are_refused(tmp_path, model, text) -> None:
    small = llama(tmp_path / "small", "LlamaForCausalLM")
    transformers = imported("transformers")
    config = transformers.LlamaConfig.from_pretrained(small, vocab_size=50)
    transformers.LlamaForCausalLM(config).save_pretrained(small)
    with pytest.raises(nz.InputError, match=r"gives token \d+, and the model knows those below 50"):
        nz.probe(f"hf:{small}", str(text))


def test_a_masked_language_model_has_no_targets(tmp_path, text) -> None:
    folder = bert(tmp_path / "masked", ["a", "b"], "BertForMaskedLM")
    result = nz.probe(f"hf:{folder}", str(text), "bert.encoder.layer.0.intermediate.*act*", levels=2)
    assert list(result.response.attrs["metrics"]) == ["agreement", "kl_divergence"]
    labelled = tmp_path / "labelled.csv"
    labelled.write_text("text,label\nThe cat,0\na dog,1\n")
    result = nz.probe(f"hf:{folder}", f"hf:{labelled}", "bert.encoder.layer.0.intermediate.*act*", levels=2)
    assert list(result.response.attrs["metrics"]) == ["agreement", "kl_divergence"]
    table = {row.what: row.value for row in result.assumptions}
    assert table["class of the model"] == "AutoModelForMaskedLM, BertForMaskedLM"
    assert table["targets of the tokens"].startswith("none: no token is masked out; batches with")


def test_the_loss_of_a_masked_language_model_is_that_of_its_masked_tokens(tmp_path) -> None:
    """On batches of the library's own collator; by hand, the mean over all tokens whose label isn't -100."""
    transformers = imported("transformers")
    folder = bert(tmp_path / "masked", ["a", "b"], "BertForMaskedLM")
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder))
    tokenizer.add_special_tokens({"mask_token": "<end>"})
    torch.manual_seed(0)
    collate = transformers.DataCollatorForLanguageModeling(tokenizer, mlm=True, mlm_probability=0.3)
    texts = [tokenizer(TEXT[start : start + 30])["input_ids"][: 8 + start % 7] for start in range(0, 240, 30)]
    batches = [dict(collate([{"input_ids": text} for text in texts[rows : rows + 4]])) for rows in (0, 4)]
    masked = "bert.encoder.layer.0.intermediate.intermediate_act_fn"
    settings = {"families": "scale", "levels": [3.0], "metrics": ["cross_entropy", "perplexity"]}
    result = nz.probe(f"hf:{folder}", batches, masked, **settings).response
    model = transformers.AutoModelForMaskedLM.from_pretrained(str(folder)).eval()
    model.get_submodule(masked).register_forward_pre_hook(lambda module, given: (given[0] * 3,))
    losses, count = 0.0, 0
    for batch in batches:
        counted = batch["labels"] != -100
        with torch.no_grad():
            loss = model(**batch).loss.double()
        losses, count = losses + float(loss) * int(counted.sum()), count + int(counted.sum())
    assert result.attrs["items"] == count < sum(batch["labels"].numel() for batch in batches)
    found = result.sel(layer=masked, family="scale", level=3.0)
    assert float(found.cross_entropy) == pytest.approx(losses / count, rel=1e-6)
    assert float(found.perplexity) == pytest.approx(np.exp(losses / count), rel=1e-6)
    with pytest.raises(nz.InputError, match='for a language model "labels" in addition to its inputs'):
        nz.probe(f"hf:{folder}", [{"input_ids": batches[0]["input_ids"]}], masked, metrics=["cross_entropy"])


def test_weights_in_several_files(tmp_path, model, text) -> None:
    transformers = imported("transformers")
    folder = tmp_path / "sharded"
    loaded = transformers.GPT2LMHeadModel.from_pretrained(model)
    loaded.save_pretrained(folder, max_shard_size="20KB")
    for file in model.glob("tokenizer*"):
        (folder / file.name).write_bytes(file.read_bytes())
    result = nz.probe(f"hf:{folder}", str(text), LAYER, levels=2)
    files = sorted(path.name for path in folder.glob("*.safetensors"))
    assert len(files) > 1
    assert sorted(result.origins["model"].files) == files
    expected = nz.probe(f"hf:{model}", str(text), LAYER, levels=2)
    assert result.response.accuracy.equals(expected.response.accuracy)
