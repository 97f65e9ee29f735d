"""Writes a model that answers at once, and nonsense: random weights of 0.3 MB and a tokenizer of bytes.

Only torch, transformers and tokenizers are used; nothing is downloaded. The seed is fixed, so the
same tokens come out every time. `config.json` alone is what the parsers of all releases look at.
"""

from __future__ import annotations

import sys


def write_tokenizer(folder: str) -> None:
    """Write a tokenizer that knows every byte."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(["a few words are enough"] * 10, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", model_max_length=512
    )
    fast.save_pretrained(folder)


def write_weights(folder: str) -> None:
    """Write two layers, with as many heads as the tensor parallel sizes of the tests divide."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        bos_token_id=0,
        eos_token_id=1,
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)


if __name__ == "__main__":
    write_tokenizer(sys.argv[1])
    write_weights(sys.argv[1])
