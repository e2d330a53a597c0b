"""Backbones and tasks of KerasHub, small and with weights drawn here, through orthwrap.

`python tests/peers/keras_hub_models.py [PART OF A NAME …]` puts each through `ways.py`. Their
classes build themselves from their own arguments, so that a file keeps nothing that is attached:
orthwrap says so there ("told"), and attaches in memory. Exit 1 below 99 %. Nothing is downloaded.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.peers.ways import Table, through  # first: it quiets TensorFlow

# isort: split
import keras
import keras_hub
import numpy as np

models = keras_hub.models
TEXT = {
    "vocabulary_size": 10,
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 4,
    "intermediate_dim": 8,
}
SHORT = {**TEXT, "max_sequence_length": 5}
GROUPED = {
    "vocabulary_size": 10,
    "num_layers": 2,
    "num_query_heads": 4,
    "num_key_value_heads": 2,
    "hidden_dim": 8,
    "intermediate_dim": 8,
}
IMAGE = {"image_shape": (32, 32, 3)}
PATCHES = {**IMAGE, "patch_size": 8, "num_layers": 2, "hidden_dim": 8, "num_heads": 2}
ENCODER_ALONE = {key: value for key, value in SHORT.items() if key != "num_heads"}
RESNET = {
    **IMAGE,
    "input_conv_filters": [64],  # the width of the first stage, whose block has no projection
    "input_conv_kernel_sizes": [3],
    "stackwise_num_filters": [64, 8, 8],
    "stackwise_num_blocks": [2, 2, 2],
    "stackwise_num_strides": [1, 2, 2],
    "block_type": "basic_block",
}
MIT = {
    **IMAGE,
    "layerwise_depths": [2, 2],
    "hidden_dims": [4, 8],
    "num_layers": 2,
    "layerwise_num_heads": [1, 2],
    "layerwise_sr_ratios": [8, 4],
    "max_drop_path_rate": 0.1,
    "layerwise_patch_sizes": [7, 3],
    "layerwise_strides": [4, 2],
}
EXPERTS = {
    **GROUPED,
    "moe_intermediate_dim": 8,
    "num_experts": 2,
    "top_k": 1,
    "head_dim": 2,
}

BACKBONES: dict[str, dict[str, Any]] = {
    "Albert": {**SHORT, "num_groups": 1, "num_inner_repetitions": 1, "embedding_dim": 8},
    "Bart": SHORT,
    "Bert": SHORT,
    "Bloom": TEXT,
    "CSPNet": {
        "stem_filters": 8,
        "stem_kernel_size": 3,
        "stem_strides": 1,
        "stackwise_strides": 2,
        "stackwise_depth": [1, 2],
        "stackwise_num_filters": [8, 12],
        "down_growth": True,
        "bottle_ratio": (0.5, 1.0),
        "block_ratio": (1.0, 0.5),
        "expand_ratio": (2.0, 1.0),
        "block_type": "dark_block",
        "stage_type": "csp",
        "stem_padding": "same",
        **IMAGE,
    },
    "DebertaV3": SHORT,
    "DeiT": {**PATCHES, "intermediate_dim": 16},
    "DenseNet": {**IMAGE, "stackwise_num_repeats": [1, 2], "growth_rate": 2},
    "DINOV2": {
        **PATCHES,
        "intermediate_dim": 16,
        "layer_scale_init_value": 1.0,
        "num_register_tokens": 2,
    },
    "DistilBert": SHORT,
    "Electra": {
        **{k: v for k, v in SHORT.items() if k != "vocabulary_size"},
        "vocab_size": 10,
        "embedding_dim": 4,
    },
    "ESM": TEXT,
    "FNet": ENCODER_ALONE,
    "Falcon": {
        "vocabulary_size": 10,
        "num_layers": 2,
        "num_attention_heads": 2,
        "hidden_dim": 8,
        "intermediate_dim": 8,
    },
    "Gemma": {**GROUPED, "head_dim": 4},
    "GPT2": SHORT,
    "GPTNeoX": SHORT,
    "GptOss": {**GROUPED, "num_experts": 2, "top_k": 2, "sliding_window": 2},
    "HGNetV2": {
        **IMAGE,
        "embedding_size": 8,
        "stem_channels": [3, 4, 8],
        "hidden_act": "relu",
        "use_learnable_affine_block": True,
        "depths": [1, 1],
        "hidden_sizes": [8, 8],
        "stackwise_stage_filters": [[8, 8, 8, 1, 1, 3], [8, 8, 8, 1, 1, 3]],
        "apply_downsample": [False, True],
        "use_lightweight_conv_block": [False, True],
    },
    "Llama": GROUPED,
    "MiT": MIT,
    "Mistral": {**GROUPED, "sliding_window": 2},
    "OPT": SHORT,
    "Phi3": GROUPED,
    "Qwen": GROUPED,
    "Qwen3": {**GROUPED, "head_dim": 2},
    "Qwen3Moe": EXPERTS,
    "ResNet": RESNET,
    "Roberta": SHORT,
    "RoformerV2": {**TEXT, "head_size": 2},
    "SwinTransformer": {
        **IMAGE,
        "embed_dim": 8,
        "depths": (2, 2),
        "num_heads": (2, 4),
        "window_size": 4,
    },
    "T5": TEXT,
    "VGG": {**IMAGE, "stackwise_num_repeats": [1, 2], "stackwise_num_filters": [4, 8]},
    "ViT": {**PATCHES, "patch_size": (8, 8), "mlp_dim": 16},
    "ViTDet": {
        "image_shape": (16, 16, 3),
        "patch_size": 2,
        "hidden_size": 4,
        "num_layers": 2,
        "global_attention_layer_indices": [1],
        "intermediate_dim": 16,
        "num_heads": 2,
        "num_output_channels": 2,
        "window_size": 2,
    },
    "Whisper": {**TEXT, "max_encoder_sequence_length": 6, "max_decoder_sequence_length": 6},
    "XLMRoberta": SHORT,
    "XLNet": TEXT,
    "Xception": {**IMAGE, "stackwise_conv_filters": [[4, 8], [8, 8]], "stackwise_pooling": [0, 1]},
}
CLASSES = {"num_classes": 2}
POOLED = {**CLASSES, "pooling": "avg"}
TASKS: dict[str, tuple[str, dict[str, Any]]] = {
    "AlbertTextClassifier": ("Albert", CLASSES),
    "BartSeq2SeqLM": ("Bart", {}),
    "BertMaskedLM": ("Bert", {}),
    "BertTextClassifier": ("Bert", CLASSES),
    "DenseNetImageClassifier": ("DenseNet", POOLED),
    "DistilBertTextClassifier": ("DistilBert", CLASSES),
    "FNetTextClassifier": ("FNet", CLASSES),
    "GPT2CausalLM": ("GPT2", {}),
    "GemmaCausalLM": ("Gemma", {}),
    "LlamaCausalLM": ("Llama", {}),
    "ResNetImageClassifier": ("ResNet", POOLED),
    "RobertaTextClassifier": ("Roberta", CLASSES),
    "T5Seq2SeqLM": ("T5", {}),
    "VGGImageClassifier": ("VGG", POOLED),
    "ViTImageClassifier": ("ViT", CLASSES),
    "XceptionImageClassifier": ("Xception", POOLED),
}


def backbone(name: str) -> Any:
    return getattr(models, f"{name}Backbone")(**BACKBONES[name])


def task(name: str) -> Any:
    inner, words = TASKS[name]
    return getattr(models, name)(backbone=backbone(inner), preprocessor=None, **words)


def segmenter() -> Any:
    encoder = models.SegFormerBackbone(image_encoder=backbone("MiT"), projection_filters=8)
    return models.SegFormerImageSegmenter(backbone=encoder, preprocessor=None, **CLASSES)


MAKERS = {
    **{f"{name}Backbone": lambda name=name: backbone(name) for name in BACKBONES},
    **{name: lambda name=name: task(name) for name in TASKS},
    "SegFormerImageSegmenter": segmenter,
}


def arrays_for(model: Any) -> Any:
    """Inputs of the shapes that a model declares, five long where they are free."""
    rng = np.random.default_rng(0)

    def made(tensor: Any) -> Any:
        shape = (2, *(5 if size is None else size for size in tensor.shape[1:]))
        kind = keras.backend.standardize_dtype(tensor.dtype)
        if "int" in kind or kind == "bool":
            return np.ones(shape, kind)
        return rng.uniform(0.1, 1.0, shape).astype(kind)

    return keras.tree.map_structure(made, model._inputs_struct)


def main(parts: list[str]) -> int:
    table = Table()
    with tempfile.TemporaryDirectory() as folder:
        for name, make in MAKERS.items():
            if parts and not any(part.lower() in name.lower() for part in parts):
                continue
            try:
                model = make()
                arrays = arrays_for(model)
                through(table, name, model, arrays, Path(folder))
            except Exception as e:
                table.note("", "error", name, f"{type(e).__name__}: {e}")
            keras.utils.clear_session()
    return 0 if table.show() else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
