"""A GPT-2 of four small blocks, trained on docstrings of the standard library and probed at its MLPs.

    python examples/language_model.py           # the figure: studies/language_model/layers.png
    python examples/language_model.py --quick   # the same with less training, in seconds

This example shows batches as a tokenizer returns them (`input_ids`, `attention_mask`, `labels`), of texts that differ
in length. Tokens that the mask leaves out count in no range and in no metric. Tokens are characters, so there is
nothing to download. nearzero recognises a causal language model of Hugging Face by its class, and compares the logits
at a token with the token after it.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

import nearzero as nz

MODULES = (
    "argparse collections concurrent.futures csv datetime decimal fractions functools inspect ipaddress itertools "
    "json logging pathlib random re statistics string subprocess tempfile textwrap threading unittest zipfile"
)
PAD, LONGEST = 0, 96


def texts() -> list[str]:
    """Return the first characters of the docstrings of some modules and of their members, sorted."""
    modules = [importlib.import_module(name) for name in MODULES.split()]
    members = [member for module in modules for member in vars(module).values() if callable(member)]
    beginnings = {(inspect.getdoc(item) or "")[:LONGEST] for item in [*modules, *members]}
    return sorted(text for text in beginnings if len(text) > 20 and text.isascii())


def batch_of(batch: list[str]) -> dict[str, Tensor]:
    """Return texts as tokens, padded to the longest text, with a mask and labels, each (texts, tokens)."""
    longest = max(map(len, batch))
    tokens = torch.tensor([[*text.encode(), *[PAD] * (longest - len(text))] for text in batch])
    mask = tokens != PAD
    return {
        "input_ids": tokens,
        "attention_mask": mask.long(),
        "labels": tokens.masked_fill(~mask, -100),
    }


def train(model: nn.Module, train_texts: list[str], steps: int) -> None:
    """Train a language model on random batches of 16 texts."""
    model.eval()  # no dropout: so short a training doesn't need it
    optimizer = torch.optim.AdamW(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.005, total_steps=steps, pct_start=0.1)
    for step in range(1, steps + 1):
        rows = torch.randint(len(train_texts), (16,))
        loss = model(**batch_of([train_texts[row] for row in rows])).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            print(f"step {step}: loss {loss.item():.3f}", flush=True)


def main(argv: list[str] | None = None) -> nz.ProbeResult:
    """Train the model, probe it, print a summary and save the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=Path, default=Path("studies/language_model"), help="a folder for the result"
    )
    parser.add_argument("--quick", action="store_true", help="fewer steps, texts and levels")
    options = parser.parse_args(argv)
    steps, examples, levels = (50, 16, 8) if options.quick else (250, 32, 32)

    torch.manual_seed(0)
    in_order = texts()
    shuffled = [in_order[row] for row in torch.randperm(len(in_order))]
    test_texts, train_texts = shuffled[:examples], shuffled[examples:]
    config = GPT2Config(
        vocab_size=128,
        n_positions=LONGEST,
        n_embd=64,
        n_layer=4,
        n_head=4,
        bos_token_id=PAD,
        eos_token_id=PAD,
        initializer_range=0.1,  # narrow layers learn little from the default, 0.02
    )
    model = GPT2LMHeadModel(config)
    model.loss_type = "ForCausalLM"  # the default, which is chosen with a warning if it isn't set
    train(model, train_texts, steps)

    result = nz.probe(
        model,
        [batch_of(test_texts[first : first + 16]) for first in range(0, examples, 16)],
        layers="transformer.h.*.mlp.act",
        levels=levels,
        metrics=["cross_entropy", "accuracy"],
    )
    print(result.headline)
    print(pd.DataFrame(result.summary()).to_string(index=False))
    print(f"saved in {result.save(options.out)}")
    return result


if __name__ == "__main__":
    main()
