"""CLIP's two transformers with what does not reach the output left out; the numbers stay the same to rounding.

* Captions: with a causal mask and pooling at the end-of-text token, later tokens change nothing, so captions are sorted
  by length and run sixteen at a time, cut to the longest of those instead of 77 tokens. open_clip's own ``encode_text``
  adds the full positional table and raises on a shorter input.
* Both: only one token is pooled, so the last block needs its queries, projection and MLP for that token alone.
* Both: attention as one plain product over contiguous memory. With a mask, ``nn.MultiheadAttention`` transposes its
  input, and then the packed projection copies its weight per caption: 60 % of the time in bfloat16.

Any other tower (attention pooling, timm, ResNet, bidirectional text, class token, Hugging Face) goes the stock way:
``find_image`` and ``find_text`` return None for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional as F

CHUNK = 16  # captions a forward pass; in batches of 64, padding cost 0.4 to 0.9 times what the captions themselves did


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipImage:
    """A vision transformer that pools its class token. Shapes: N images, L tokens, D width."""

    visual: Any

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """Map normalised pixels [N, 3, H, W] to features [N, D_out], not normalised."""
        x_NLD = self.visual._embeds(pixels)
        first_N = torch.zeros(len(x_NLD), dtype=torch.long)
        pooled_ND = self.visual.ln_post(_run(self.visual.transformer.resblocks, x_NLD, pooled_N=first_N, causal=False))
        return _project(pooled_ND, self.visual.proj)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipText:
    """A causal text transformer. Shapes: N captions, L tokens, D width."""

    token_embedding: nn.Embedding
    positional_embedding: torch.Tensor
    blocks: Sequence[nn.Module]
    ln_final: nn.Module
    projection: nn.Module | torch.Tensor | None
    eos_id: int | None
    """Pool at the first such token, or at the largest token id if None."""

    def __call__(self, tokens_NL: torch.Tensor) -> torch.Tensor:
        """Map padded token ids, int64 [N, context], to features [N, D_out], not normalised."""
        ends_N = tokens_NL.argmax(-1) if self.eos_id is None else (tokens_NL == self.eos_id).int().argmax(-1)
        order_N = ends_N.argsort(stable=True)
        parts = [self._embed(tokens_NL[rows], ends_N[rows]) for rows in order_N.split(CHUNK)]
        return torch.cat(parts)[order_N.argsort()]

    def _embed(self, tokens_NL: torch.Tensor, ends_N: torch.Tensor) -> torch.Tensor:
        tokens_NL = tokens_NL[:, : int(ends_N.max()) + 1]
        places_LD = self.positional_embedding[: tokens_NL.shape[1]]
        x_NLD = self.token_embedding(tokens_NL).to(places_LD.dtype) + places_LD
        return _project(self.ln_final(_run(self.blocks, x_NLD, pooled_N=ends_N, causal=True)), self.projection)


def find_image(model: nn.Module) -> ClipImage | None:
    """Return the short form of an open_clip model's image tower, or None if it is of any other kind."""
    visual: Any = getattr(model, "visual", None)
    if type(visual).__name__ != "VisionTransformer" or not hasattr(visual, "_embeds"):
        return None
    if visual.attn_pool is not None or visual.pool_type != "tok" or visual.output_tokens:
        return None
    return ClipImage(visual=visual) if _are_plain(visual.transformer) else None


def find_text(model: nn.Module) -> ClipText | None:
    """Return the short form of an open_clip model's text tower, or None if it is of any other kind."""
    tower: Any = getattr(model, "text", model)
    pool_type = getattr(tower, "pool_type", getattr(tower, "text_pool_type", None))
    needed = ("transformer", "token_embedding", "positional_embedding", "ln_final", "text_projection", "attn_mask")
    if pool_type not in ("argmax", "eos") or not all(hasattr(tower, name) for name in needed):
        return None
    if getattr(tower, "cls_emb", None) is not None or getattr(tower, "use_pad_mask", False):
        return None
    if getattr(tower, "output_tokens", False) or not _are_plain(tower.transformer):
        return None
    length = tower.positional_embedding.shape[0]
    causal = torch.full((length, length), float("-inf")).triu_(1)
    mask = tower.attn_mask
    if mask is None or mask.shape != causal.shape or not torch.equal(mask.float().cpu(), causal):
        return None
    eos_id = getattr(tower, "eos_id", getattr(tower, "text_eos_id", None)) if pool_type == "eos" else None
    return ClipText(
        token_embedding=tower.token_embedding,
        positional_embedding=tower.positional_embedding,
        blocks=tower.transformer.resblocks,
        ln_final=tower.ln_final,
        projection=tower.text_projection,
        eos_id=eos_id,
    )


def _are_plain(transformer: nn.Module) -> bool:
    """Tell whether all blocks are open_clip's ResidualAttentionBlock around PyTorch's own attention."""
    blocks = getattr(transformer, "resblocks", ())
    return bool(blocks) and all(
        type(block).__name__ == "ResidualAttentionBlock"
        and isinstance(block.attn, nn.MultiheadAttention)
        and block.attn.in_proj_weight is not None
        and block.attn.in_proj_bias is not None
        and block.attn.bias_k is None
        and not block.attn.add_zero_attn
        for block in blocks
    )


def _run(blocks: Sequence[nn.Module], x_NLD: torch.Tensor, *, pooled_N: torch.Tensor, causal: bool) -> torch.Tensor:
    """Run the blocks and return the last one's output for one token each, [N, D]."""
    for block in blocks[:-1]:
        x_NLD = _block(cast(Any, block), x_NLD, causal=causal)
    return _last_block(cast(Any, blocks[-1]), x_NLD, pooled_N, causal=causal)


def _block(block: Any, x_NLD: torch.Tensor, *, causal: bool) -> torch.Tensor:  # noqa: ANN401 - open_clip is untyped
    n_items, length, width = x_NLD.shape
    packed = F.linear(block.ln_1(x_NLD), block.attn.in_proj_weight, block.attn.in_proj_bias)
    heads = packed.view(n_items, length, 3, block.attn.num_heads, width // block.attn.num_heads)
    query, key, value = heads.permute(2, 0, 3, 1, 4)
    seen = F.scaled_dot_product_attention(query, key, value, is_causal=causal)
    return _rest(block, x_NLD, seen.transpose(1, 2).reshape(n_items, length, width))


def _last_block(block: Any, x_NLD: torch.Tensor, pooled_N: torch.Tensor, *, causal: bool) -> torch.Tensor:  # noqa: ANN401
    n_items, length, width = x_NLD.shape
    attention, rows_N = block.attn, torch.arange(n_items)
    normed_NLD = block.ln_1(x_NLD)
    (weight_q, weight_kv), (bias_q, bias_kv) = (
        whole.split([width, 2 * width]) for whole in (attention.in_proj_weight, attention.in_proj_bias)
    )
    query = F.linear(normed_NLD[rows_N, pooled_N], weight_q, bias_q).view(n_items, attention.num_heads, 1, -1)
    packed = F.linear(normed_NLD, weight_kv, bias_kv).view(n_items, length, 2, attention.num_heads, -1)
    key, value = packed.permute(2, 0, 3, 1, 4)
    mask = (torch.arange(length) <= pooled_N[:, None])[:, None, None, :] if causal else None
    seen = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    return _rest(block, x_NLD[rows_N, pooled_N], seen.reshape(n_items, width))


def _rest(block: Any, x: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:  # noqa: ANN401
    """Finish a block: project what attention saw, then the MLP, both added to the stream."""
    x = x + block.ls_1(block.attn.out_proj(seen))
    return cast(torch.Tensor, x + block.ls_2(block.mlp(block.ln_2(x))))


def _project(pooled_ND: torch.Tensor, projection: nn.Module | torch.Tensor | None) -> torch.Tensor:
    if projection is None:
        return pooled_ND
    return cast(torch.Tensor, projection(pooled_ND)) if isinstance(projection, nn.Module) else pooled_ND @ projection
