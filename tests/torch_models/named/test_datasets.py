"""Data sets by name: configurations, splits, columns, and the classes of the model."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from local_models import COMMIT, bert, cached, gpt2, images, use_caches, vit
from PIL import Image

import nearzero as nz
from nearzero.torch_models.named.packages import imported

SENTENCES = [
    "the cat sat",
    "a dog",
    "the dog ran away from the cat and the mat, and from the other dog too",
    "mat",
]


def logit(logits, target):
    """Return the logit of the target, a metric whose items compare bit for bit."""
    return logits.gather(1, target[:, None])[:, 0]


@pytest.fixture(scope="module")
def language_model(tmp_path_factory) -> Path:
    return gpt2(tmp_path_factory.mktemp("models") / "gpt2")


@pytest.fixture(scope="module")
def classifier(tmp_path_factory) -> Path:
    return bert(tmp_path_factory.mktemp("models") / "bert", ["negative", "positive"])


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    return use_caches(monkeypatch, tmp_path / "caches")


def table(rows: dict, names: list[str] | None = None):
    """Return a data set with a column of classes if they have names."""
    datasets = imported("datasets")
    found = datasets.Dataset.from_dict(rows)
    return found if names is None else found.cast_column("label", datasets.ClassLabel(names=names))


@pytest.fixture
def reviews(tmp_path) -> Path:
    """Return a folder of data with two configurations, one of which has two splits, as repositories have them."""
    folder = tmp_path / "reviews"
    (folder / "long").mkdir(parents=True)
    names = ["negative", "positive"]
    train = table({"text": SENTENCES[::-1], "label": [0, 0, 1, 1]}, names)
    test = table({"text": SENTENCES, "label": [1, 0, 1, 0]}, names)
    train.to_parquet(folder / "long" / "train-0.parquet")
    test.to_parquet(folder / "long" / "test-0.parquet")
    (folder / "README.md").write_text(
        "---\nconfigs:\n"
        "- config_name: long\n  data_files:\n"
        "  - {split: train, path: long/train-*}\n  - {split: test, path: long/test-*}\n"
        "- config_name: short\n  data_files:\n  - {split: test, path: long/test-*}\n---\n"
    )
    return folder


def rows_of(result) -> dict[str, str]:
    return {row.what: row.value for row in result.assumptions}


def test_texts_with_labels_equal_a_loop_by_hand_bit_for_bit(classifier, reviews, cache) -> None:
    result = nz.probe(
        f"hf:{classifier}",
        f"hf:{reviews}:long:test",
        "bert.encoder.layer.0.intermediate.*act*",
        families="scale",
        levels=[2.0],
        metrics={"logit": logit},
        keep_items=True,
    )
    transformers = imported("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(classifier))
    model = transformers.AutoModelForSequenceClassification.from_pretrained(str(classifier)).eval()
    batch = tokenizer(SENTENCES, truncation=True, padding=True, return_tensors="pt")
    labels = torch.tensor([1, 0, 1, 0])
    with torch.no_grad():
        plain = model(**batch).logits
        activation = model.bert.encoder.layer[0].intermediate.intermediate_act_fn
        activation.register_forward_pre_hook(lambda module, given: (given[0] * 2,))
        perturbed = model(**batch).logits
    assert result.response.unperturbed_logit_items.values.tolist() == logit(plain, labels).tolist()
    assert result.response.logit_items.values.ravel().tolist() == logit(perturbed, labels).tolist()
    assert result.response.target.values.tolist() == labels.tolist()
    assert result.class_names == ("negative", "positive")
    assert rows_of(result)["texts"] == "one in a row, 4, 1 of which are cut to 16 tokens"


def test_joined_texts_equal_a_loop_by_hand(language_model, reviews, cache) -> None:
    result = nz.probe(
        f"hf:{language_model}",
        f"hf:{reviews}:long:train",
        "transformer.h.0.mlp.act",
        levels=2,
        metrics={"logit": logit},
        keep_items=True,
        loading=nz.Loading(block=8, examples=3),
    )
    transformers = imported("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(language_model))
    model = transformers.AutoModelForCausalLM.from_pretrained(str(language_model)).eval()
    tokens = [token for text in SENTENCES[::-1] for token in tokenizer(text)["input_ids"]][:24]
    batch = torch.tensor(tokens).reshape(3, 8)
    with torch.no_grad():
        expected = model(batch).logits[:, :-1].gather(2, batch[:, 1:, None])
    assert result.response.unperturbed_logit_items.values.tolist() == expected.ravel().tolist()


def test_a_text_in_a_row_for_a_language_model(language_model, reviews, cache) -> None:
    loading = nz.Loading(block="texts")
    result = nz.probe(
        f"hf:{language_model}",
        f"hf:{reviews}:long:test",
        "transformer.h.0.mlp.act",
        levels=2,
        metrics={"logit": logit},
        keep_items=True,
        loading=loading,
    )
    transformers = imported("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(language_model))
    tokenizer.pad_token = tokenizer.eos_token
    model = transformers.AutoModelForCausalLM.from_pretrained(str(language_model)).eval()
    batch = tokenizer(SENTENCES, truncation=True, max_length=24, padding=True, return_tensors="pt")
    following = batch["input_ids"][:, 1:]
    with torch.no_grad():
        logits = model(**batch).logits[:, :-1]
    expected = logits.gather(2, following[..., None])[..., 0][batch["attention_mask"][:, 1:] == 1]
    assert result.response.unperturbed_logit_items.values.tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("rest", "split", "configuration"),
    [(":long", "test", "long"), (":short", "test", "short"), (":long:train", "train", "long")],
)
def test_configurations_and_splits(classifier, reviews, cache, rest, split, configuration) -> None:
    rows = rows_of(nz.probe(f"hf:{classifier}", f"hf:{reviews}{rest}", levels=2))
    assert rows["split of the data"] == split
    assert rows["configuration of the data"] == configuration


@pytest.mark.parametrize("rest", [":long:train[1:3]", ":train[1:3]", ":train[:50%]"])
def test_a_slice_of_a_split(classifier, reviews, cache, rest) -> None:
    if not rest.startswith(":long"):
        (reviews / "README.md").write_text(
            (reviews / "README.md").read_text().partition("- config_name: short")[0] + "---\n"
        )
    assert nz.probe(f"hf:{classifier}", f"hf:{reviews}{rest}", levels=2).response.attrs["items"] == 2


@pytest.mark.parametrize(
    ("rest", "options", "message"),
    [
        ("", {}, "has several configurations: name one of long, short"),
        (":lang", {}, "has no configuration 'lang': did you mean 'long'? name one of long, short"),
        (":long:tset", {}, "has no split 'tset': did you mean 'test'? there are train, test"),
        (":long:test:more", {}, "a data set is named hf:name:configuration:split"),
        (":long:test[a]", {}, "split 'test[a]' of"),
        (":short", {"labels": "none", "classes": "order"}, "classes='order' has no effect here"),
        (
            ":long",
            {"column": "texts"},
            "there is no column 'texts': did you mean 'text'? the data have text, label",
        ),
        (":long", {"column": "label"}, "and not texts"),
        (":long", {"labels": "labels"}, "there is no column 'labels': did you mean 'label'?"),
    ],
)
def test_wrong_names_get_one_line(classifier, reviews, cache, rest, options, message) -> None:
    with pytest.raises(nz.InputError) as caught:
        nz.probe(f"hf:{classifier}", f"hf:{reviews}{rest}", loading=nz.Loading(**options))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_cache_of_the_hub(classifier, reviews, cache) -> None:
    cached(cache, "org/reviews", reviews, kind="dataset")
    for name in ("hf:org/reviews:long:test", f"hf:org/reviews@{COMMIT}:long"):
        result = nz.probe(f"hf:{classifier}", name, levels=2)
        assert result.origins["data"].revision == COMMIT
        assert result.response.attrs["items"] == 4
    with pytest.raises(nz.InputError, match=r"no dataset 'org/review'; did you mean 'org/reviews'\?"):
        nz.probe(f"hf:{classifier}", "hf:org/review:long:test")


def test_the_cache_of_datasets_itself(classifier, reviews, cache, tmp_path) -> None:
    datasets = imported("datasets")
    builder = datasets.load_dataset_builder(str(reviews), "long", cache_dir=str(tmp_path / "prepared"))
    builder.download_and_prepare()
    place = Path(datasets.config.HF_DATASETS_CACHE) / "org___reviews" / "long" / "0.0.0" / COMMIT
    shutil.copytree(builder.cache_dir, place)
    result = nz.probe(f"hf:{classifier}", "hf:org/reviews:long:test", levels=2)
    assert result.response.attrs["items"] == 4
    assert result.origins["data"].revision == COMMIT
    with pytest.raises(nz.InputError, match="no configuration 'lang': did you mean 'long'"):
        nz.probe(f"hf:{classifier}", "hf:org/reviews:lang:test")


def test_a_data_set_without_network_and_cache_is_one_line(classifier, cache) -> None:
    with pytest.raises(
        nz.InputError, match=r"the hub is switched off \(HF_HUB_OFFLINE\), and the cache has no dataset"
    ):
        nz.probe(f"hf:{classifier}", "hf:wikitext:wikitext-2-raw-v1:test")


def test_scripts_are_never_run(classifier, cache, tmp_path) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "own.py").write_text("raise SystemExit('run')")
    with pytest.raises(nz.InputError, match="is loaded by a script of its own, which isn't run"):
        nz.probe(f"hf:{classifier}", f"hf:{folder}")


def test_a_saved_data_set_and_files(classifier, cache, tmp_path) -> None:
    datasets = imported("datasets")
    data = table({"sentence": SENTENCES, "label": [1, 0, 1, 0]})
    data.save_to_disk(str(tmp_path / "saved"))
    datasets.DatasetDict({"test": data}).save_to_disk(str(tmp_path / "splits"))
    data.to_csv(str(tmp_path / "data.csv"))
    data.to_json(str(tmp_path / "data.jsonl"))
    for name in ("saved", "splits", "splits:test", "data.csv", "data.jsonl"):
        result = nz.probe(f"hf:{classifier}", f"hf:{tmp_path / name}", levels=2)
        assert result.response.attrs["items"] == 4
        assert rows_of(result)["column of the texts"] == "sentence"
        assert rows_of(result)["column of the labels"] == "label"
    with pytest.raises(nz.InputError, match="has no split 'train'"):
        nz.probe(f"hf:{classifier}", f"hf:{tmp_path / 'splits'}:train")
    with pytest.raises(nz.InputError, match=r"has no slices; got 'test\[:2\]'; leave it to examples"):
        nz.probe(f"hf:{classifier}", f"hf:{tmp_path / 'splits'}:test[:2]")


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_columns_with_another_separator(classifier, cache, tmp_path, separator) -> None:
    """Also where texts contain commas, by which each row would be read otherwise."""
    rows = [("text", "label"), ("a cat, a dog", "1"), ("a dog", "0")]
    folder = tmp_path / "folder"
    folder.mkdir()
    path = folder / "texts.csv"
    path.write_text("".join(f"{separator.join(row)}\n" for row in rows), encoding="utf-8-sig")
    settings = {"levels": 1, "metrics": {"logit": logit}, "keep_items": True}
    found = nz.probe(f"hf:{classifier}", f"hf:{path}", **settings)
    row = next(row for row in found.assumptions if row.what == "separator of the columns")
    assert (row.value, row.source) == (repr(separator), "the first line")
    path.write_text('text,label\n"a cat, a dog",1\na dog,0\n')
    expected = nz.probe(f"hf:{classifier}", f"hf:{path}", **settings)
    assert "separator of the columns" not in [row.what for row in expected.assumptions]
    values = expected.response.unperturbed_logit_items.values
    np.testing.assert_array_equal(found.response.unperturbed_logit_items.values, values)
    path.write_text(f"text{separator}label\na dog{separator}0\n")
    with pytest.raises(nz.InputError, match=r"the data have one column, 'text.*label': their files aren't"):
        nz.probe(f"hf:{classifier}", f"hf:{folder}:train", **settings)


def test_columns_with_two_separators_are_refused(classifier, cache, tmp_path) -> None:
    path = tmp_path / "texts.csv"
    path.write_text("text;label|source\na dog;1|x\n")
    with pytest.raises(nz.InputError, match=r"separated by ';' or '\|', and it isn't known which"):
        nz.probe(f"hf:{classifier}", f"hf:{path}", levels=1)


def test_a_name_without_a_name_is_one_line(classifier, cache) -> None:
    with pytest.raises(
        nz.InputError, match="a data set is named hf:name:configuration:split; got 'hf::test'"
    ):
        nz.probe(f"hf:{classifier}", "hf::test")


def test_columns_of_other_types_are_shown_with_these(classifier, cache, tmp_path) -> None:
    (tmp_path / "numbers.csv").write_text("text,label\n1,0\n2,1\n")
    with pytest.raises(nz.InputError, match=r"no column of texts; they have text \(int64\), label \(int64\)"):
        nz.probe(f"hf:{classifier}", f"hf:{tmp_path / 'numbers.csv'}")


def test_classes_are_matched_by_name(classifier, cache, tmp_path) -> None:
    folder = tmp_path / "swapped.parquet"
    table({"text": SENTENCES, "label": [1, 0, 1, 0]}, ["Positive", "Negative"]).to_parquet(folder)
    result = nz.probe(f"hf:{classifier}", f"hf:{folder}", levels=2, keep_items=True)
    assert result.response.target.values.tolist() == [0, 1, 0, 1]
    assert rows_of(result)["classes of the data"] == "by name"


def test_other_names_of_as_many_classes_go_by_order(classifier, cache, tmp_path) -> None:
    folder = tmp_path / "other.parquet"
    table({"text": SENTENCES, "label": [1, 0, 1, 0]}, ["neg", "pos"]).to_parquet(folder)
    result = nz.probe(f"hf:{classifier}", f"hf:{folder}", levels=2, keep_items=True)
    assert result.response.target.values.tolist() == [1, 0, 1, 0]
    assert rows_of(result)["classes of the data"] == "class k of the data is class k of the model"
    swapped = nz.Loading(classes={"neg": "positive", "pos": 0})
    result = nz.probe(f"hf:{classifier}", f"hf:{folder}", levels=2, keep_items=True, loading=swapped)
    assert result.response.target.values.tolist() == [0, 1, 0, 1]


def test_numbers_get_the_classes_that_are_given(classifier, cache, tmp_path) -> None:
    path = tmp_path / "data.parquet"
    table({"text": SENTENCES, "label": [1, 0, 1, 0]}).to_parquet(path)
    for classes in ({"0": "positive", "1": 0}, {0: 1, 1: "negative"}):
        swapped = nz.Loading(classes=classes)
        result = nz.probe(f"hf:{classifier}", f"hf:{path}", levels=2, keep_items=True, loading=swapped)
        assert result.response.target.values.tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("labels", "examples", "message"),
    [
        (["neg", "pos", "pos", "neg"], None, "which of the model's neg, pos are"),
        (["positive", "bad", "bad", "positive"], None, "which of the model's bad is"),
        (["bad", "good", "fair", "bad"], 2, "the data have 3 classes and the model has 2"),
    ],
)
def test_names_without_an_order_get_no_class_by_order(
    classifier, cache, tmp_path, labels, examples, message
) -> None:
    path = tmp_path / "data.parquet"
    table({"text": SENTENCES, "label": labels}).to_parquet(path)
    with pytest.raises(nz.InputError, match=message):
        nz.probe(f"hf:{classifier}", f"hf:{path}", loading=nz.Loading(examples=examples))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["positive", "bad"], "which of the model's bad is"),  # by order, "positive" would be "negative"
        ([str(number) for number in sorted(map(str, range(12)))], None),
    ],
)
def test_classes_by_order_contradict_no_name(cache, tmp_path, names, message) -> None:
    model = bert(tmp_path / "bert", ["negative", "positive"] if message else [f"c{k}" for k in range(12)])
    path = tmp_path / "data.parquet"
    table({"text": SENTENCES, "label": [0, 1, 1, 0]}, names).to_parquet(path)
    with pytest.raises(nz.InputError, match=message or "which of the model's 0, 1, 10, 11, 2 and 7 more are"):
        nz.probe(f"hf:{model}", f"hf:{path}")
    by_order = nz.probe(
        f"hf:{model}", f"hf:{path}", levels=1, keep_items=True, loading=nz.Loading(classes="order")
    )
    assert by_order.response.target.values.tolist() == [0, 1, 1, 0]


def test_a_name_of_several_classes_is_refused(cache, tmp_path) -> None:
    """As ImageNet has two classes "crane"."""
    model = bert(tmp_path / "bert", ["crane", "mat", "Crane"])
    path = tmp_path / "data.parquet"
    table({"text": SENTENCES, "label": [0, 1, 1, 0]}, ["mat", "crane"]).to_parquet(path)
    for options in ({}, {"classes": {"mat": "crane", "crane": 0}}):
        with pytest.raises(
            nz.InputError, match="several classes of the model are called 'crane': 0, 2; say which"
        ):
            nz.probe(f"hf:{model}", f"hf:{path}", loading=nz.Loading(**options))
    loading = nz.Loading(classes={"mat": "mat", "crane": 2})
    result = nz.probe(f"hf:{model}", f"hf:{path}", levels=1, keep_items=True, loading=loading)
    assert result.response.target.values.tolist() == [1, 2, 2, 1]


@pytest.mark.parametrize(
    ("labels", "names", "options", "message"),
    [
        ([0, 1, 2, 0], ["a", "b", "c"], {}, "the data have 3 classes and the model has 2"),
        ([0, 1, 2, 0], None, {}, "the labels go up to 2, and the model has 2 classes"),
        ([-1, -1, -1, -1], None, {}, "some labels are -1, which is no class"),
        ([0, 1, 1, 0], ["a", "b"], {"classes": {"a": 0}}, "classes says nothing of 'b'"),
        ([0, 1, 1, 0], ["a", "b"], {"classes": {"a": 0, "b": "positiv"}}, "did you mean 'positive'"),
    ],
)
def test_labels_that_are_no_classes_of_the_model(
    classifier, cache, tmp_path, labels, names, options, message
) -> None:
    path = tmp_path / "data.parquet"
    table({"text": SENTENCES, "label": labels}, names).to_parquet(path)
    with pytest.raises(nz.InputError) as caught:
        nz.probe(f"hf:{classifier}", f"hf:{path}", loading=nz.Loading(**options))
    assert message in str(caught.value)
    without = nz.probe(f"hf:{classifier}", f"hf:{path}", levels=2, loading=nz.Loading(labels="none"))
    assert "accuracy" not in without.response


def test_images_equal_a_loop_by_hand_bit_for_bit(cache, tmp_path) -> None:
    datasets, transformers = imported("datasets"), imported("transformers")
    model_folder, path = vit(tmp_path / "vit", ["cat", "dog", "mat"]), tmp_path / "images.parquet"
    draw = np.random.default_rng(0)
    pictures = [Image.fromarray(draw.integers(0, 256, (20, 24, 3), np.uint8)) for _ in range(4)]
    features = datasets.Features(
        {"img": datasets.Image(), "label": datasets.ClassLabel(names=["dog", "cat", "mat"])}
    )
    datasets.Dataset.from_dict({"img": pictures, "label": [0, 1, 2, 0]}, features=features).to_parquet(path)
    result = nz.probe(
        f"hf:{model_folder}",
        f"hf:{path}",
        "vit*act*",
        families="scale",
        levels=[2.0],
        metrics={"logit": logit},
        keep_items=True,
    )
    processor = transformers.AutoImageProcessor.from_pretrained(str(model_folder))
    model = transformers.AutoModelForImageClassification.from_pretrained(str(model_folder)).eval()
    labels = torch.tensor([1, 0, 2, 1])
    with torch.no_grad():
        logits = model(**processor(pictures, return_tensors="pt")).logits
    assert result.response.unperturbed_logit_items.values.tolist() == logit(logits, labels).tolist()
    assert result.class_names == ("cat", "dog", "mat")


def test_empty_texts_are_left_out(language_model, cache, tmp_path) -> None:
    path = tmp_path / "some.parquet"
    table({"text": ["", *SENTENCES, ""]}).to_parquet(path)
    settings = {"layers": "transformer.h.0.mlp.act", "levels": 2, "loading": nz.Loading(block="texts")}
    result = nz.probe(f"hf:{language_model}", f"hf:{path}", **settings)
    assert rows_of(result)["empty texts"] == "2 left out"
    assert result.response.attrs["examples"] == 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"block": 4}, "block=4 has no effect here: .* holds images; leave it out"),
        ({"column": "image"}, "column='image' has no effect here: .* has no columns"),
        ({"labels": "label"}, "labels='label' has no effect here: .* has no columns"),
        ({"dtype": "float32"}, "dtype='float32' has no effect here: .* isn't a model of transformers"),
    ],
)
def test_settings_without_effect_are_refused(cache, tmp_path, settings, message) -> None:
    folder = images(tmp_path / "images", ["a"])
    model = "torch.nn:Flatten" if "dtype" in settings else f"hf:{vit(tmp_path / 'vit', ['a', 'b'])}"
    with pytest.raises(nz.InputError, match=message):
        nz.probe(model, str(folder), loading=nz.Loading(classes={"a": 0}, **settings))


def digests(name: str, **options) -> dict[str, str]:
    """Return the digests of data by their name, without those of files."""
    model = nz.open_model(options.pop("model"))
    return dict(nz.open_data(name, model, nz.Loading(**options)).origin.files)


def test_the_digest_of_texts_is_of_what_was_read(language_model, classifier, cache, tmp_path) -> None:
    """Another text beyond the examples that are taken doesn't change it; another token or label does."""
    for number, (texts, labels) in enumerate(
        [(SENTENCES, [0, 1, 1, 0]), ([*SENTENCES[:2], "mat", "dog"], [0, 1, 0, 0]), (SENTENCES, [1, 1, 1, 0])]
    ):
        table({"text": texts, "label": labels}).to_parquet(tmp_path / f"{number}.parquet")
    for model, same in ((language_model, (True, True)), (classifier, (True, False))):
        options = {"model": f"hf:{model}", "block": "texts", "examples": 2}
        first, second, third = (digests(f"hf:{tmp_path}/{number}.parquet", **options) for number in range(3))
        assert list(first) == ["2 texts of tokens"]
        assert (first == second, first == third) == same
        whole = [
            digests(f"hf:{tmp_path}/{number}.parquet", **options | {"examples": None}) for number in (0, 1)
        ]
        assert whole[0] != whole[1]


def test_the_digest_of_images_is_of_their_bytes_and_labels(cache, tmp_path) -> None:
    """The same files give the same digests in a folder and in a table; one other pixel changes them."""
    model = f"hf:{vit(tmp_path / 'vit', ['cat', 'dog'])}"
    folder = images(tmp_path / "images", ["cat", "dog"], count=2)
    paths = sorted(folder.glob("*/*.png"))
    datasets = imported("datasets")
    rows = {"image": [str(path) for path in paths], "label": [0, 0, 1, 1]}
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
    )
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "images.parquet")
    by_hand = hashlib.sha256()
    for path in paths:
        for content in (f"{path.parent.name}/{path.name}".encode(), path.read_bytes()):
            by_hand.update(len(content).to_bytes(8, "little") + content)
    found = digests(str(folder), model=model)
    assert list(found) == ["4 images", "4 labels"]
    assert found["4 images"] == by_hand.hexdigest()
    table_of = digests(f"hf:{tmp_path}/images.parquet", model=model)
    assert table_of["4 labels"] == found["4 labels"]
    Image.fromarray(np.asarray(Image.open(paths[0])) ^ 1).save(paths[0])
    assert digests(str(folder), model=model)["4 images"] != found["4 images"]
    result = nz.probe(model, str(folder), levels=2)
    assert dict(result.origins["data"].files) == digests(str(folder), model=model)


def test_arrays_have_digests(tmp_path) -> None:
    np.savez(tmp_path / "data.npz", x=np.eye(3), y=np.arange(3))
    first = nz.open_data(str(tmp_path / "data.npz")).origin.files
    np.savez(tmp_path / "data.npz", x=np.eye(3), y=np.array([0, 1, 1]))
    second = nz.open_data(str(tmp_path / "data.npz")).origin.files
    assert first["inputs"] == second["inputs"]
    assert first["targets"] != second["targets"]
