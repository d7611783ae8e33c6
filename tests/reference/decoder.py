"""A decoder in plain numpy, float64, a sequence at a time and whole: what ragged batches over a KV cache must agree with."""

from typing import Any

import numpy as np
import numpy.typing as npt

from calibration.model.layers import EPSILON, ROPE_BASE
from calibration.model.weights import Experts, FeedForward, Weights
from simulator.cost.shape import ModelShape

Float64 = npt.NDArray[np.float64]


def logits(tokens: npt.NDArray[np.int64], weights: Weights, shape: ModelShape) -> Float64:
    """Logits after every token of one sequence, [tokens, vocabulary]."""
    x = array(weights.embedding)[tokens]
    for layer in weights.layers:
        x = x + attention(norm(x, layer.input_norm), layer, shape)
        inner = norm(x, layer.post_norm)
        x = x + (dense(inner, layer.mlp) if isinstance(layer.mlp, FeedForward) else mixture(inner, layer.mlp))
    return norm(x, weights.norm) @ array(weights.lm_head).T


def attention(x: Float64, layer: Any, shape: ModelShape) -> Float64:
    n, d = len(x), shape.head_dim
    qkv = linear(x, layer.qkv, layer.qkv_bias).reshape(n, -1, d)
    query, keys, values = np.split(qkv, [shape.heads, shape.heads + shape.kv_heads], axis=1)
    if layer.q_norm is not None:
        query, keys = norm(query, layer.q_norm), norm(keys, layer.k_norm)
    query, keys = rotated(query), rotated(keys)
    out = np.empty((n, shape.heads, d))
    for head in range(shape.heads):
        kv = head // (shape.heads // shape.kv_heads)
        scores = query[:, head] @ keys[:, kv].T / np.sqrt(d)
        scores[np.triu_indices(n, 1)] = -np.inf
        out[:, head] = softmax(scores) @ values[:, kv]
    return linear(out.reshape(n, -1), layer.o, layer.o_bias)


def rotated(x: Float64) -> Float64:
    """Each pair (i, i + d/2) turned by position x base^(-2i/d)."""
    half = x.shape[-1] // 2
    angle = np.arange(len(x))[:, None, None] * ROPE_BASE ** (-np.arange(half) / half)
    turned = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * angle)
    return np.concatenate([turned.real, turned.imag], -1)


def dense(x: Float64, weights: FeedForward) -> Float64:
    both = linear(x, weights.gate_up, weights.gate_up_bias)
    gate, up = np.split(both, 2, axis=-1)
    return linear(gate / (1 + np.exp(-gate)) * up, weights.down, weights.down_bias)


def mixture(x: Float64, weights: Experts) -> Float64:
    out = np.zeros_like(x)
    for row, scores in enumerate(softmax(linear(x, weights.router))):
        best = np.argsort(-scores)[: weights.per_token]
        for expert in best:
            one = FeedForward(weights.gate_up[expert], weights.down[expert])
            out[row] += scores[expert] / scores[best].sum() * dense(x[row], one)
    if weights.shared is not None:
        share = 1.0 if weights.shared_gate is None else 1 / (1 + np.exp(-linear(x, weights.shared_gate)))
        out += share * dense(x, weights.shared)
    return out


def norm(x: Float64, weight: Any) -> Float64:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + EPSILON) * array(weight)


def linear(x: Float64, weight: Any, bias: Any = None) -> Float64:
    return x @ array(weight).T + (0 if bias is None else array(bias))


def softmax(x: Float64) -> Float64:
    shares = np.exp(x - x.max(-1, keepdims=True))
    return shares / shares.sum(-1, keepdims=True)


def array(tensor: Any) -> Float64:
    return tensor.double().numpy()
