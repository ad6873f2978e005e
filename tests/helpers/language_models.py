"""Small language models of transformers with random weights; the fixture `packages` makes their import work."""

from __future__ import annotations

from typing import Any

import torch

WORDS, LENGTH = 97, 64
SIZE = {"vocab_size": WORDS, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "max_position_embeddings": LENGTH}
TOKENS = {"bos_token_id": 1, "eos_token_id": None, "pad_token_id": 0}
DECODER = {**SIZE, **HEADS, **TOKENS}
GROUPED = {**DECODER, "num_key_value_heads": 2}
GPT2 = {"vocab_size": WORDS, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": LENGTH, **TOKENS}
T5 = {"vocab_size": WORDS, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
KINDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", GPT2),
    "gpt_neox": ("GPTNeoXForCausalLM", "GPTNeoXConfig", DECODER),
    "llama": ("LlamaForCausalLM", "LlamaConfig", GROUPED),
    "mistral": ("MistralForCausalLM", "MistralConfig", GROUPED),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", GROUPED),
    "gemma": ("GemmaForCausalLM", "GemmaConfig", {**GROUPED, "head_dim": 8}),
    "gemma2": ("Gemma2ForCausalLM", "Gemma2Config", {**GROUPED, "head_dim": 8, "query_pre_attn_scalar": 8}),
    "phi3": ("Phi3ForCausalLM", "Phi3Config", GROUPED),
    "mixtral": ("MixtralForCausalLM", "MixtralConfig", {**GROUPED, "num_local_experts": 4}),
    "bert": ("BertForMaskedLM", "BertConfig", DECODER),
    "t5": (
        "T5ForConditionalGeneration",
        "T5Config",
        {**T5, "decoder_start_token_id": 0, "eos_token_id": None, "pad_token_id": 0},
    ),
}


def tiny(kind: str, **settings: Any) -> Any:
    """Return a model of two blocks with random weights, in evaluation mode; `settings` replace those of its config."""
    import transformers

    model, config, given = KINDS[kind]
    torch.manual_seed(0)
    return getattr(transformers, model)(getattr(transformers, config)(**{**given, **settings})).eval()
