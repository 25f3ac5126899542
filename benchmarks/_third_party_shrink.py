"""A configuration of ``transformers`` made small by the well-known names of its sizes."""

from __future__ import annotations

from typing import Any

from _third_party_subjects import CLASSES

VOCABULARY = 256

SMALL: dict[str, int] = (
    dict.fromkeys(
        [
            "hidden_size",
            "d_model",
            "n_embd",
            "dim",
            "embed_dim",
            "hidden_dim",
            "emb_dim",
            "embedding_size",
            "model_dim",
            "encoder_hidden_size",
            "decoder_hidden_size",
            "cross_attention_hidden_size",
            "input_dim",
            "projection_dim",
            "output_dim",
            "out_hidden_size",
            "text_hidden_size",
            "token_hidden_size",
            "hidden_size_per_layer_input",
            "projector_hidden_size",
            "codec_dim",
            "bottleneck_dim",
            "conv_hidden_size",
            "audio_hidden_size",
            "lru_width",
            "d_embed",
            "encoder_embed_dim",
            "decoder_embed_dim",
            "attention_hidden_size",
            "true_hidden_size",
            "proj_dim",
        ],
        64,
    )
    | dict.fromkeys(
        [
            "num_hidden_layers",
            "n_layer",
            "n_layers",
            "num_layers",
            "encoder_layers",
            "decoder_layers",
            "depth",
            "num_encoder_layers",
            "num_decoder_layers",
            "encoder_num_layers",
            "decoder_num_layers",
            "num_layers_encoder",
            "num_layers_decoder",
            "text_num_layers",
            "num_block_layers",
            "num_hidden_layers_encoder",
            "num_hidden_groups_",
            "encoder_num_hidden_layers",
            "decoder_num_hidden_layers",
            "vision_layers",
        ],
        4,
    )
    | dict.fromkeys(
        [
            "num_attention_heads",
            "n_head",
            "n_heads",
            "num_heads",
            "encoder_attention_heads",
            "decoder_attention_heads",
            "attention_heads",
            "encoder_num_attention_heads",
            "decoder_num_attention_heads",
            "num_encoder_attention_heads",
            "text_num_heads",
            "num_decoder_attention_heads",
            "num_query_heads",
            "mamba_n_heads",
            "linear_num_value_heads",
            "linear_num_key_heads",
        ],
        4,
    )
    | dict.fromkeys(["num_key_value_heads", "num_kv_heads", "multi_query_group_num"], 2)
    | dict.fromkeys(
        [
            "head_dim",
            "d_kv",
            "attention_head_dim",
            "attention_head_size",
            "global_head_dim",
            "v_head_dim",
            "qk_nope_head_dim",
            "mamba_d_head",
            "linear_key_head_dim",
            "linear_value_head_dim",
            "swa_head_dim",
            "kv_channels",
        ],
        16,
    )
    | dict.fromkeys(["qk_rope_head_dim", "rotary_dim", "rope_head_dim"], 8)
    | dict.fromkeys(["q_lora_rank", "kv_lora_rank", "o_lora_rank", "index_head_dim"], 32)
    | {"qk_head_dim": 24}
    | dict.fromkeys(
        [
            "intermediate_size",
            "ffn_dim",
            "d_ff",
            "n_inner",
            "encoder_ffn_dim",
            "decoder_ffn_dim",
            "dim_feedforward",
            "inner_dim",
            "feed_forward_size",
            "hidden_dim_ff",
            "mlp_dim",
            "encoder_intermediate_size",
            "decoder_intermediate_size",
            "d_inner",
            "ffn_hidden_size",
        ],
        128,
    )
    | dict.fromkeys(
        [
            "moe_intermediate_size",
            "shared_intermediate_size",
            "shared_expert_intermediate_size",
            "expert_dim",
            "expert_ffn_hidden_size",
            "expert_hidden_size",
        ],
        64,
    )
    | dict.fromkeys(
        ["num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts", "expert_num"], 4
    )
    | dict.fromkeys(
        ["num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "top_k"], 2
    )
    | dict.fromkeys(["n_group", "topk_group", "n_shared_experts", "num_expert_group"], 1)
    | dict.fromkeys(["vocab_size", "text_vocab_size", "vocab_size_per_layer_input"], VOCABULARY)
    | dict.fromkeys(
        [
            "max_position_embeddings",
            "n_positions",
            "max_source_positions",
            "max_target_positions",
            "n_ctx",
            "max_seq_len",
            "max_sequence_length",
        ],
        512,
    )
    | dict.fromkeys(["image_size", "img_size", "input_size"], 64)
    | {"patch_size": 8, "num_queries": 8, "num_latents": 8, "d_latents": 64, "num_labels": CLASSES}
    | {"num_query_tokens": 8, "max_window_layers": 2, "sliding_window": 16, "attention_window": 16}
    | {"max_text_len": 64, "mamba_expand": 2, "num_codebooks": 2, "conv_pos_kernel": 8}
)
WIDTHS = ("hidden_sizes", "embed_dims", "encoder_hidden_sizes", "dims", "embed_dim", "hidden_dims")
DEPTHS = ("depths", "num_layers", "layer_depths", "encoder_depths", "num_blocks", "depth")
PER_LAYER = ("layer_types", "mlp_layer_types", "attn_layer_indices", "no_rope_layers")


def shrunk(kind: Any) -> Any:
    """A configuration of a class, with everything that has a well-known name made small."""
    plain = kind()
    for changes in (small_of(plain, deep=True), small_of(plain, deep=False)):
        try:
            config = kind(**changes)
            break
        except Exception:
            continue
    else:
        config = plain
        for name, value in small_of(plain, deep=False).items():
            setattr(config, name, value)
    settle(config)
    return config


def small_of(config: Any, *, deep: bool) -> dict[str, Any]:
    """What to pass to the constructor instead of the defaults."""
    changes: dict[str, Any] = {}
    known = dict(vars(config))
    for alias in getattr(config, "attribute_map", {}):
        known.pop(alias, None)
    for name, value in known.items():
        if name in SMALL and type(value) is int:
            changes[name] = min(value, SMALL[name]) if value > 0 else value
        elif hasattr(value, "to_dict") and hasattr(value, "model_type"):
            if deep:
                changes[name] = small_of(value, deep=True) | {"model_type": value.model_type}
        elif isinstance(value, list | tuple) and value and all(type(v) is int for v in value):
            if name in WIDTHS:
                changes[name] = type(value)(narrow(list(value)))
            elif name in DEPTHS:
                changes[name] = type(value)(min(v, 2) for v in value)
        elif is_special(name, value):
            changes[name] = special(name)
    return changes


def is_special(name: str, value: Any) -> bool:
    """Whether an attribute is the number of a special word that no longer exists."""
    ending = name.endswith(("_token_id", "_token_index", "_token"))
    return ending and type(value) is int and not 0 <= value < 20


def special(name: str) -> int:
    """A number below the ordinary words, the same for a name at any time."""
    return 4 + sum(map(ord, name)) % 18


def narrow(widths: list[int]) -> list[int]:
    """Halved as often as all can be, down to 16."""
    while all(w % 2 == 0 for w in widths) and min(widths) >= 32 and max(widths) > 64:
        widths = [w // 2 for w in widths]
    return widths


def settle(config: Any) -> None:
    """What constructors leave as it was: special words, and lists of a layer each."""
    for name, value in list(vars(config).items()):
        if hasattr(value, "to_dict") and hasattr(value, "model_type"):
            settle(value)
        elif is_special(name, value):
            setattr(config, name, special(name))
        elif name in PER_LAYER and isinstance(value, list):
            layers = getattr(config, "num_hidden_layers", len(value))
            setattr(config, name, value[: max(int(layers), 1)])
