"""Attention layers over sequences (N, S, E)."""

from __future__ import annotations

import functools
from typing import Any

from imgrec_engine import functional as F
from imgrec_engine.creation import zeros
from imgrec_engine.dtypes import bool_
from imgrec_engine.errors import ShapeError
from imgrec_engine.mixed_precision import region
from imgrec_engine.nn import init
from imgrec_engine.nn.dropout import Dropout
from imgrec_engine.nn.matmul import Linear
from imgrec_engine.nn.module import Module, Parameter
from imgrec_engine.nn.norm import LayerNorm
from imgrec_engine.tensor import Tensor


class MultiheadAttention(Module):
    """Attention with several heads and learned projections (Vaswani et al., 2017), batch first.

    ``output, weights = attention(query, key, value)``: query (N, S_q, embed_dim), key and value (N, S_k, embed_dim),
    output (N, S_q, embed_dim). ``weights`` is always None, as with PyTorch's ``need_weights=False``: the kernel never
    forms the S_q x S_k matrix; ``attention.weights(query, key)`` does, to look at. Masks mean what they mean in
    PyTorch's layer, where a boolean True *hides* a position (the opposite of
    `functional.scaled_dot_product_attention`). State keys and initialisation are PyTorch's.

    >>> import imgrec_engine as ie
    >>> x = ie.randn(2, 7, 16)
    >>> output, _ = ie.nn.MultiheadAttention(16, num_heads=4)(x, x, x)
    >>> output.shape
    (2, 7, 16)
    """

    def __init__(self, embed_dim: int, num_heads: int, dropout: float = 0.0, bias: bool = True) -> None:
        if num_heads < 1 or embed_dim % num_heads:
            raise ValueError(f"MultiheadAttention: num_heads={num_heads} must divide embed_dim={embed_dim}")
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.head_dim = embed_dim // num_heads
        self.dropout = dropout
        self.in_proj_weight = Parameter(zeros((3 * embed_dim, embed_dim)))
        self.in_proj_bias = Parameter(zeros(3 * embed_dim)) if bias else None
        self.out_proj = Linear(embed_dim, embed_dim, bias)
        init.xavier_uniform_(self.in_proj_weight)
        if self.out_proj.bias is not None:
            init.zeros_(self.out_proj.bias)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
        residual: Tensor | None = None,
    ) -> tuple[Tensor, None]:
        """Attends from every query position to the keys, and adds ``residual`` (N, S_q, embed_dim).

        ``key_padding_mask`` (N, S_k) is boolean, True at padding. ``attn_mask`` (S_q, S_k) or (N * num_heads, S_q, S_k)
        is boolean, True where attention is forbidden, or floating and added to the scores.
        """
        is_one = query is key is value
        for name, x in [("query", query)] if is_one else [("query", query), ("key", key), ("value", value)]:
            shape = x.shape
            if len(shape) != 3 or shape[2] != self.embed_dim:
                raise ShapeError(f"MultiheadAttention: {name} has shape {shape}, expected (N, S, {self.embed_dim})")
        mask = self._mask(attn_mask, key_padding_mask, query.shape[0])
        options = mask, self.dropout if self.training else 0.0, is_causal
        if is_one:
            y = F.self_attention(F.linear(query, self.in_proj_weight, self.in_proj_bias), self.num_heads, *options)
        else:
            q, k, v = self._project(query, key, value)
            y = F.scaled_dot_product_attention(q, k, v, *options)
            y = y.reshape(*y.shape[:2], self.embed_dim)
        return self.out_proj(y, residual=residual), None

    def weights(self, query: Tensor, key: Tensor) -> Tensor:
        """How much each query position attends to each key where nothing is masked: (N, num_heads, S_q, S_k).

        softmax(q k^T / sqrt(head_dim)), computed anew; each row sums to 1.
        """
        q, k, _ = self._project(query, key, key)
        scores = q.permute(0, 2, 1, 3) @ k.permute(0, 2, 3, 1)
        return F.softmax(scores * self.head_dim**-0.5)

    def _project(self, *inputs: Tensor) -> list[Tensor]:
        """The heads (N, S, num_heads, head_dim) of query, key and value: each times its third of the weight."""
        weight, bias, width = self.in_proj_weight, self.in_proj_bias, self.embed_dim
        thirds = [slice(i * width, (i + 1) * width) for i in range(3)]
        return [
            self._heads(F.linear(x, weight[third], None if bias is None else bias[third]))
            for x, third in zip(inputs, thirds, strict=True)
        ]

    def _heads(self, x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:2], self.num_heads, self.head_dim)

    def _mask(self, attn_mask: Tensor | None, key_padding_mask: Tensor | None, batch: int) -> Tensor | None:
        """Both masks as one that broadcasts to (N, heads, S_q, S_k): boolean and True where attended, or additive."""
        masks = []
        if attn_mask is not None:
            lead = (batch, self.num_heads) if attn_mask.ndim == 3 else (1, 1)
            masks.append(attn_mask.reshape(*lead, *attn_mask.shape[-2:]))
        if key_padding_mask is not None:
            masks.append(key_padding_mask.reshape(batch, 1, 1, -1))
        if not masks:
            return None
        hidden = [mask for mask in masks if mask.dtype == bool_]
        additive = [mask for mask in masks if mask.dtype != bool_]
        if not additive:
            return F.logical_not(functools.reduce(F.logical_or, hidden))
        joint = functools.reduce(F.add, additive)
        for mask in hidden:
            joint = F.where(mask, float("-inf"), joint)
        return joint

    def extra_repr(self) -> str:
        """Its sizes."""
        dropout = f", dropout={self.dropout}" if self.dropout else ""
        return f"{self.embed_dim}, num_heads={self.num_heads}{dropout}"


_OWN = (Linear, Dropout, MultiheadAttention)  # other types may do anything


class TransformerEncoderLayer(Module):
    """Self-attention and a two-layer perceptron, each with a residual connection (Vaswani et al., 2017), batch first.

    x (N, S, d_model) gives (N, S, d_model). ``activation`` is "relu" or "gelu"; ``norm_first`` normalises before each
    part instead of after it (Xiong et al., 2020). Masks as for `MultiheadAttention`. State keys are PyTorch's.

    >>> import imgrec_engine as ie
    >>> layer = ie.nn.TransformerEncoderLayer(16, nhead=4, dim_feedforward=32, norm_first=True)
    >>> layer(ie.randn(2, 7, 16)).shape
    (2, 7, 16)
    """

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: str = "relu",
        layer_norm_eps: float = 1e-5,
        norm_first: bool = False,
    ) -> None:
        if activation not in ("relu", "gelu"):
            raise ValueError(f"TransformerEncoderLayer: activation is {activation!r}, expected 'relu' or 'gelu'")
        self.self_attn = MultiheadAttention(d_model, nhead, dropout)
        self.linear1 = Linear(d_model, dim_feedforward)
        self.dropout = Dropout(dropout)
        self.linear2 = Linear(dim_feedforward, d_model)
        self.norm1 = LayerNorm(d_model, layer_norm_eps)
        self.norm2 = LayerNorm(d_model, layer_norm_eps)
        self.dropout1 = Dropout(dropout)
        self.dropout2 = Dropout(dropout)
        self.activation = activation
        self.norm_first = norm_first

    def forward(
        self,
        src: Tensor,
        src_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        """Runs the layer on src (N, S, d_model)."""
        masks = src_key_padding_mask, src_mask, is_causal
        if self.norm_first:
            x = self._attend(src, self.norm1(src), *masks)
            return self._feed_forward(x, self.norm2(x))
        x = self.norm1(self._attend(src, src, *masks))
        y: Tensor = self.norm2(self._feed_forward(x, x))
        return y

    def _attend(self, src: Tensor, x: Tensor, *masks: Any) -> Tensor:
        """``src`` and what x attends to."""
        if self._joins(self.dropout1, self.self_attn) and self._joins(self.self_attn.out_proj):
            y: Tensor = self.self_attn(x, x, x, *masks, residual=src)[0]
        else:
            y = src + self.dropout1(self.self_attn(x, x, x, *masks)[0])
        return y

    def _feed_forward(self, src: Tensor, x: Tensor) -> Tensor:
        """``src`` and what the perceptron makes of x."""
        hidden = self.dropout(self.linear1(x, activation=self.activation))
        if self._joins(self.dropout2, self.linear2):
            y: Tensor = self.linear2(hidden, residual=src)
        else:
            y = src + self.dropout2(self.linear2(hidden))
        return y

    @staticmethod
    def _joins(*modules: Module) -> bool:
        """Whether the residual is added by the product before it, through these modules.

        Not where something comes between the two or may look at what does: in training, and where a module is hooked or
        of another type. Nor under autocast, where residuals stay float32.
        """
        for module in modules:
            if module.training or module._forward_hooks or type(module) not in _OWN:
                return False
        return region.dtype is None

    def extra_repr(self) -> str:
        """What its children do not show."""
        return f"activation={self.activation!r}, norm_first={self.norm_first}"
