"""Writes small models without weights (vLLM makes random ones), of Qwen2's and of Gemma's shape, and LoRA adapters with random weights.
Runs in vLLM's own Python, which has the packages."""

import argparse
import json
import zlib
from pathlib import Path

import numpy
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

# As large as one core computes in about 2 s per 3,000 tokens: slow enough for a cached prefix to show, and no slower.
HIDDEN, LAYERS, HEAD, RANK = 512, 8, 64, 8
VOCABULARY, LONGEST = 4096, 32768
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
# Qwen's, with tools before the messages.
TEMPLATE = (
    "{% if tools %}{{'<|im_start|>system\n'}}{% for tool in tools %}{{ tool | tojson }}{{'\n'}}{% endfor %}{{'<|im_end|>\n'}}{% endif %}"
    "{% for m in messages %}{{'<|im_start|>' + m['role'] + '\n' + (m['content'] or '') + '<|im_end|>\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{'<|im_start|>assistant\n'}}{% endif %}"
)


QWEN = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_act": "silu"}
# Gemma's: layers that look at the last tokens alone, and layers that look at all, have KV caches of their own.
SLIDING = {
    "architectures": ["Gemma3ForCausalLM"],
    "model_type": "gemma3_text",
    "hidden_activation": "gelu_pytorch_tanh",
    "sliding_window": 512,
    "layer_types": ["sliding_attention", "sliding_attention", "sliding_attention", "full_attention"] * (LAYERS // 4),
    "query_pre_attn_scalar": HEAD,
    "rope_local_base_freq": 10000.0,
}


def write_json(file, value):
    file.write_text(json.dumps(value, indent=1))


def write_model(folder, words, hybrid):
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([file.read_text() for file in words], trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": SPECIAL[2],
            "pad_token": SPECIAL[0],
            "model_max_length": LONGEST,
            "chat_template": TEMPLATE,
        },
    )
    write_json(folder / "config.json", {**shape(tokenizer.get_vocab_size()), **(SLIDING if hybrid else QWEN)})
    write_json(folder / "generation_config.json", {"pad_token_id": 0, "eos_token_id": 2})


def shape(vocabulary):
    """What all models have in common."""
    return {
        "hidden_size": HIDDEN,
        "intermediate_size": HIDDEN * 3,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HIDDEN // HEAD,
        "num_key_value_heads": HIDDEN // HEAD // 2,
        "head_dim": HEAD,
        "vocab_size": vocabulary,
        "max_position_embeddings": LONGEST,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "bos_token_id": 0,
        "eos_token_id": 2,
    }


def write_adapter(folder, model):
    """An adapter of the query projections, other for each name."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(
        folder / "adapter_config.json",
        {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": str(model),
            "r": RANK,
            "lora_alpha": 2 * RANK,
            "lora_dropout": 0.0,
            "bias": "none",
            "target_modules": ["q_proj"],
        },
    )
    chance = numpy.random.default_rng(zlib.crc32(folder.name.encode()))
    weights = {}
    for layer in range(LAYERS):
        name = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        weights[f"{name}.lora_A.weight"] = chance.standard_normal((RANK, HIDDEN), dtype=numpy.float32)
        weights[f"{name}.lora_B.weight"] = chance.standard_normal((HIDDEN, RANK), dtype=numpy.float32)
    save_file(weights, str(folder / "adapter_model.safetensors"))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("hybrid", type=Path, help="a model of which some layers look at the last tokens alone")
    parser.add_argument("adapters", type=Path, nargs="*")
    parser.add_argument("--words", type=Path, nargs="+", required=True, help="texts whose words become tokens")
    options = parser.parse_args()
    write_model(options.model, options.words, hybrid=False)
    write_model(options.hybrid, options.words, hybrid=True)
    for folder in options.adapters:
        write_adapter(folder, options.model)


main()
