"""A GPT-2 of four small blocks, trained for a minute on docstrings of the standard library, and probed at its MLPs.

    python examples/language_model.py --out studies/language_model

It shows batches as a tokenizer gives them (`input_ids`, `attention_mask`, `labels`), of texts that differ in
length: what the mask leaves out counts in no range and in no metric. Tokens are characters. The logits at a token
are held against the next one, since the class is a Hugging Face model for causal language. Besides
accuracy the metric is the loss per token; `--items` keeps it for every token at every level.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
from pathlib import Path

import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

import nearzero as nz

MODULES = (
    "argparse collections csv datetime decimal functools inspect itertools json logging os pathlib random re"
)
PAD, LONGEST = 0, 96
Batch = dict[str, Tensor]


def texts() -> list[str]:
    """The first characters of the docstrings of some modules, and of what they define."""
    found: set[str] = set()
    for name in MODULES.split():
        module = importlib.import_module(name)
        for each in (module, *vars(module).values()):
            text = inspect.getdoc(each) if callable(each) or each is module else None
            found.add((text or "").encode("ascii", "ignore").decode()[:LONGEST])
    return sorted(each for each in found if len(each) > 20)


def batch_of(some: list[str]) -> Batch:
    """Texts as tokens, padded to the longest."""
    longest = max(map(len, some))
    tokens = torch.tensor([[*each.encode(), *[PAD] * (longest - len(each))] for each in some])
    mask = (tokens != PAD).long()
    return {"input_ids": tokens, "attention_mask": mask, "labels": tokens.masked_fill(mask == 0, -100)}


def main(argv: list[str] | None = None) -> nz.ProbeResult:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("studies/language_model"), help="for the results")
    parser.add_argument("--steps", type=int, default=300, help="of training, 32 texts each")
    parser.add_argument("--examples", type=int, default=64, help="texts to probe with")
    parser.add_argument("--levels", type=int, default=32, help="how many of each family's levels")
    parser.add_argument("--items", action="store_true", help="keep the metrics of every token")
    options = parser.parse_args(argv)

    torch.manual_seed(0)
    known = texts()
    order = torch.randperm(len(known)).tolist()
    test, train = (
        [known[row] for row in part] for part in (order[: options.examples], order[options.examples :])
    )
    config = GPT2Config(
        vocab_size=128, n_positions=LONGEST, n_embd=64, n_layer=4, n_head=4, loss_type="ForCausalLM",
        bos_token_id=PAD, eos_token_id=PAD,
    )  # fmt: skip
    model = GPT2LMHeadModel(config)
    optimizer = torch.optim.AdamW(model.parameters(), 0.003)
    for step in range(options.steps):
        loss = model(**batch_of([train[row] for row in torch.randint(len(train), (32,))])).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 50 == 0 or step == options.steps - 1:
            print(f"step {step:4}  loss {loss.item():.3f}", flush=True)

    result = nz.probe(
        model,
        [batch_of(test[first : first + 16]) for first in range(0, len(test), 16)],
        layers="transformer.h.*.mlp.act",
        levels=options.levels,
        metrics=["accuracy", "cross_entropy"],
        keep_items=options.items,
    )
    print(result.headline)
    for row in result.summary():
        print("  " + ", ".join(f"{key} {value}" for key, value in row.items()))
    result.save(options.out)
    result.plot("cross_entropy").savefig(options.out / "loss.png", dpi=300)
    print(f"saved in {options.out}")
    return result


if __name__ == "__main__":
    main()
