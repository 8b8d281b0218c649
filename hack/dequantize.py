"""Safetensors out of a quantized GGUF of a Llama: `dequantize.py MODEL.gguf FOLDER`.

For machines that reach no model hub: the package that carries the demo's model has it as a GGUF, and most toolchains
read only safetensors. What comes out has the accuracy of what went in, so every figure about it must say so. Runs in
the Python of llama.cpp's toolchain.
"""

import json
import sys
from pathlib import Path
from typing import Any

import gguf
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

TENSORS = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""llama.cpp's names -> those of Hugging Face's Llama."""


class Model:
    """A GGUF file."""

    def __init__(self, file: Path) -> None:
        self._reader = gguf.GGUFReader(file)

    def get(self, key: str) -> Any:
        """A value of its header."""
        return self._reader.fields[key].contents()

    def tensors(self) -> dict[str, torch.Tensor]:
        """Its weights at 16 bits, as Hugging Face's Llama has them."""
        return {_name(one.name): self._weights(one) for one in self._reader.tensors}

    def _weights(self, tensor: Any) -> torch.Tensor:
        weights = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        kind = tensor.name.split(".")[-2]
        if kind in ("attn_q", "attn_k"):
            # llama.cpp has the two halves of each head's rotated pairs side by side.
            heads = self.get("llama.attention.head_count" if kind == "attn_q" else "llama.attention.head_count_kv")
            rows, columns = weights.shape
            weights = weights.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)
        return torch.tensor(weights, dtype=torch.bfloat16)

    def config(self) -> dict[str, Any]:
        """What Hugging Face's Llama calls its configuration."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "torch_dtype": "bfloat16",
            "hidden_act": "silu",
            "tie_word_embeddings": True,
            "hidden_size": self.get("llama.embedding_length"),
            "intermediate_size": self.get("llama.feed_forward_length"),
            "num_hidden_layers": self.get("llama.block_count"),
            "num_attention_heads": self.get("llama.attention.head_count"),
            "num_key_value_heads": self.get("llama.attention.head_count_kv"),
            "head_dim": self.get("llama.rope.dimension_count"),
            "max_position_embeddings": self.get("llama.context_length"),
            "rms_norm_eps": round(self.get("llama.attention.layer_norm_rms_epsilon"), 9),
            "rope_theta": self.get("llama.rope.freq_base"),
            "vocab_size": self.get("llama.vocab_size"),
            "bos_token_id": self.get("tokenizer.ggml.bos_token_id"),
            "eos_token_id": self.get("tokenizer.ggml.eos_token_id"),
            "pad_token_id": self.get("tokenizer.ggml.padding_token_id"),
        }

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """Its tokenizer: byte-level, with each digit for itself."""
        words = self.get("tokenizer.ggml.tokens")
        merges = [tuple(merge.split(" ")) for merge in self.get("tokenizer.ggml.merges")]
        tokenizer = Tokenizer(models.BPE(vocab={word: number for number, word in enumerate(words)}, merges=merges))
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
        tokenizer.decoder = decoders.ByteLevel()
        kinds = zip(words, self.get("tokenizer.ggml.token_type"), strict=True)
        tokenizer.add_special_tokens([word for word, kind in kinds if kind == gguf.TokenType.CONTROL])
        special = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
        named = {f"{name}_token": words[self.get(f"tokenizer.ggml.{key}_token_id")] for name, key in special.items()}
        return PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            chat_template=self.get("tokenizer.chat_template"),
            model_max_length=self.get("llama.context_length"),
            clean_up_tokenization_spaces=False,
            **named,
        )


def _name(name: str) -> str:
    *block, kind, suffix = name.split(".")
    where = f"model.layers.{block[1]}." if block else ""
    return f"{where}{TENSORS[kind]}.{suffix}"


def main(file: Path, folder: Path) -> None:
    """Writes the model."""
    model = Model(file)
    if (model.get("general.architecture"), model.get("tokenizer.ggml.pre")) != ("llama", "smollm"):
        raise SystemExit(f"{file}: only a Llama with the tokenizer of SmolLM is known here")
    folder.mkdir(parents=True, exist_ok=True)
    save_file(model.tensors(), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(model.config(), indent=2) + "\n")
    model.tokenizer().save_pretrained(folder)
    # By the name that engines know which read this file themselves.
    settings = folder / "tokenizer_config.json"
    said = json.loads(settings.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    settings.write_text(json.dumps(said, indent=2) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
