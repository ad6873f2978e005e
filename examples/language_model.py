"""A GPT-2 of four small blocks, trained on docstrings of the standard library and probed at its MLPs.

    python examples/language_model.py           # the figure: studies/language_model/layers.png
    python examples/language_model.py --quick   # the same with less training, in seconds

It shows batches as a tokenizer gives them (`input_ids`, `attention_mask`, `labels`), of texts that differ in
length: what the mask leaves out counts in no range and in no metric. Tokens are characters, so there is nothing to
download. A Hugging Face model for causal language is known by its class: the logits at a token are held against
the token after it.
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
    """The first characters of the docstrings of some modules, and of what they define."""
    modules = [importlib.import_module(name) for name in MODULES.split()]
    known = [each for module in modules for each in (module, *vars(module).values())]
    found = {(inspect.getdoc(each) or "")[:LONGEST] for each in known if callable(each) or each in modules}
    return sorted(each for each in found if len(each) > 20 and each.isascii())


def batch_of(some: list[str]) -> dict[str, Tensor]:
    """Texts as tokens, padded to the longest."""
    longest = max(map(len, some))
    tokens = torch.tensor([[*each.encode(), *[PAD] * (longest - len(each))] for each in some])
    mask = tokens != PAD
    return {
        "input_ids": tokens,
        "attention_mask": mask.long(),
        "labels": tokens.masked_fill(~mask, -100),
    }


def train(model: nn.Module, some: list[str], steps: int) -> None:
    model.eval()  # no dropout: so short a training can do without
    optimizer = torch.optim.AdamW(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.005, total_steps=steps, pct_start=0.1)
    for step in range(1, steps + 1):
        loss = model(**batch_of([some[row] for row in torch.randint(len(some), (16,))])).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            print(f"step {step}: loss {loss.item():.3f}", flush=True)


def main(argv: list[str] | None = None) -> nz.ProbeResult:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=Path, default=Path("studies/language_model"), help="a folder for the result"
    )
    parser.add_argument("--quick", action="store_true", help="fewer steps, texts and levels")
    options = parser.parse_args(argv)
    steps, examples, levels = (50, 16, 8) if options.quick else (250, 32, 32)

    torch.manual_seed(0)
    known = texts()
    order = [known[row] for row in torch.randperm(len(known))]
    test, rest = order[:examples], order[examples:]
    config = GPT2Config(
        vocab_size=128, n_positions=LONGEST, n_embd=64, n_layer=4, n_head=4, bos_token_id=PAD, eos_token_id=PAD,
        initializer_range=0.1,  # narrow layers learn little from the usual 0.02
    )  # fmt: skip
    model = GPT2LMHeadModel(config)
    model.loss_type = "ForCausalLM"  # what it would be anyway, but with a warning
    train(model, rest, steps)

    result = nz.probe(
        model,
        [batch_of(test[first : first + 16]) for first in range(0, examples, 16)],
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
