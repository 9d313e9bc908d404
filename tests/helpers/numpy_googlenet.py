"""NumPy float64 reference for one training step of the CIFAR GoogLeNet with BatchNorm.

Written from the network's description only, with a hand-derived backward pass, so that it shares
no code and no automatic differentiation with the implementation it is compared against.

Images are NHWC, kernels HWIO. Parameters and batch statistics are nested dicts:
``params[layer][...]['conv' | 'bn'][leaf]``, ``params['fc']``, ``batch_stats[layer][...]['bn']``.
Every width is read from the kernels' shapes; only the topology is fixed here.
"""

import functools
from collections.abc import Mapping

import numpy as np

LAYERS = (
    *("conv1", "conv2", "inception3a", "inception3b", "maxpool3"),
    *("inception4a", "inception4b", "inception4c", "inception4d", "inception4e", "maxpool4"),
    *("inception5a", "inception5b"),
)
# Units of each branch, in the order in which the branches are concatenated on channels.
BRANCHES = (("conv1x1",), ("reduce3x3", "conv3x3"), ("reduce5x5", "conv5x5"), ("pool_proj",))
POOLED_BRANCH = 3  # this branch sees the max-pooled input
BN_EPSILON = 1e-5
BN_KEEP = 0.9  # fraction of the old running value that is kept

# (window, stride, padding). Padding with -inf, one at the high end of a 3x3 stride-2 pool keeps
# the last partial window for even sizes and adds no window for odd sizes: this is ceil mode.
CEIL_POOL = (3, 2, (0, 1))
BRANCH_POOL = (3, 1, (1, 1))


def tree_map(function, tree, *others):
    """Apply `function` to each leaf of nested dicts of equal structure; return a new dict."""
    if isinstance(tree, Mapping):
        return {key: tree_map(function, tree[key], *(o[key] for o in others)) for key in tree}
    return function(tree, *others)


def as_float64(tree):
    """Return the nested dict with every leaf as a float64 NumPy array."""
    return tree_map(lambda leaf: np.asarray(leaf, np.float64), tree)


# --- Layers: each forward returns (output, cache), each backward takes (d_output, cache). ---


def _window_slices(offset_h, offset_w, out_h, out_w, stride):
    """Index of the elements at one offset inside all windows of a padded NHWC array."""
    rows = slice(offset_h, offset_h + stride * (out_h - 1) + 1, stride)
    columns = slice(offset_w, offset_w + stride * (out_w - 1) + 1, stride)
    return np.s_[:, rows, columns, :]


def _conv_pads(kernel):
    """Pad widths of an NHWC array for a 'same' stride-1 convolution with an odd kernel."""
    half_h, half_w = kernel.shape[0] // 2, kernel.shape[1] // 2
    return (0, 0), (half_h, half_h), (half_w, half_w), (0, 0)


def _conv_forward(x, conv):
    """Convolve x (N,H,W,I) with conv['kernel'] (kh,kw,I,O), add conv['bias'] (O,): (N,H,W,O)."""
    kernel = conv["kernel"]
    padded = np.pad(x, _conv_pads(kernel))
    _, height, width, _ = x.shape
    y = np.broadcast_to(conv["bias"], (*x.shape[:3], kernel.shape[3])).copy()
    # A sum over kernel offsets of 1x1 convolutions; cross-correlation, so no kernel flip.
    for i, j in np.ndindex(kernel.shape[:2]):
        y += padded[_window_slices(i, j, height, width, 1)] @ kernel[i, j]
    return y, (padded, kernel)


def _conv_backward(dy, cache):
    """From dy (N,H,W,O) return dx (N,H,W,I) and the gradients of kernel and bias."""
    padded, kernel = cache
    _, height, width, _ = dy.shape
    d_padded, d_kernel = np.zeros_like(padded), np.zeros_like(kernel)
    for i, j in np.ndindex(kernel.shape[:2]):
        index = _window_slices(i, j, height, width, 1)
        d_kernel[i, j] = np.tensordot(padded[index], dy, axes=((0, 1, 2), (0, 1, 2)))
        d_padded[index] += dy @ kernel[i, j].T
    # The border was constant zero, so what flows into it is dropped.
    (_, (top, _), (left, _), _) = _conv_pads(kernel)
    dx = d_padded[:, top : top + height, left : left + width]
    return dx, {"kernel": d_kernel, "bias": dy.sum(axis=(0, 1, 2))}


def _bn_forward(x, bn, running, train):
    """Normalise x (N,H,W,C) per channel; return y, new running values and the cache."""
    if train:
        # Biased variance both to normalise and for the running value.
        mean, var = x.mean(axis=(0, 1, 2)), x.var(axis=(0, 1, 2))
        new = {"mean": mean, "var": var}
        running = tree_map(lambda old, b: BN_KEEP * old + (1 - BN_KEEP) * b, running, new)
    else:
        mean, var = running["mean"], running["var"]
    inverse_std = 1 / np.sqrt(var + BN_EPSILON)
    normalised = (x - mean) * inverse_std
    y = normalised * bn["scale"] + bn["bias"]
    return y, running, (normalised, inverse_std, bn["scale"])


def _bn_backward(dy, cache):
    """Training-mode backward: from dy (N,H,W,C) return dx and the gradients of scale and bias."""
    normalised, inverse_std, scale = cache
    axes = (0, 1, 2)
    dn = dy * scale
    # The two subtracted terms come from the batch mean and batch variance depending on x. The
    # term through the mean inside the variance vanishes, since deviations from a mean sum to zero.
    dx = dn - dn.mean(axis=axes) - normalised * (dn * normalised).mean(axis=axes)
    grads = {"scale": (dy * normalised).sum(axis=axes), "bias": dy.sum(axis=axes)}
    return inverse_std * dx, grads


def _unit_forward(x, params, stats, train):
    """conv -> BatchNorm -> ReLU of x (N,H,W,I); return y (N,H,W,O), new statistics, cache."""
    y, conv_cache = _conv_forward(x, params["conv"])
    y, running, bn_cache = _bn_forward(y, params["bn"], stats["bn"], train)
    active = y > 0  # gradient 0 at exactly 0
    return np.where(active, y, 0.0), {"bn": running}, (conv_cache, bn_cache, active)


def _unit_backward(dy, cache):
    """From dy (N,H,W,O) return dx (N,H,W,I) and the unit's gradients."""
    conv_cache, bn_cache, active = cache
    dy, bn_grads = _bn_backward(np.where(active, dy, 0.0), bn_cache)
    dx, conv_grads = _conv_backward(dy, conv_cache)
    return dx, {"conv": conv_grads, "bn": bn_grads}


def _maxpool_forward(x, window, stride, padding):
    """Max-pool x (N,H,W,C) with -inf padding; the cache holds each window's first maximum."""
    low, high = padding
    pads = (0, 0), (low, high), (low, high), (0, 0)
    padded = np.pad(x, pads, constant_values=-np.inf)
    out_h, out_w = ((size - window) // stride + 1 for size in padded.shape[1:3])
    offsets = list(np.ndindex(window, window))  # row-major
    candidates = np.stack([padded[_window_slices(*o, out_h, out_w, stride)] for o in offsets])
    winner = candidates.argmax(axis=0)  # argmax takes the first one, as the tie rule asks
    return candidates.max(axis=0), (winner, x.shape, padded.shape, offsets, stride, low)


def _maxpool_backward(dy, cache):
    """Send each dy (N,oh,ow,C) to its window's first maximum; return dx (N,H,W,C)."""
    winner, shape, padded_shape, offsets, stride, low = cache
    d_padded = np.zeros(padded_shape)
    # Within one offset the windows touch distinct elements, so += loses nothing to overlaps.
    for number, offset in enumerate(offsets):
        index = _window_slices(*offset, *dy.shape[1:3], stride)
        d_padded[index] += np.where(winner == number, dy, 0.0)
    return d_padded[:, low : low + shape[1], low : low + shape[2]]


def maxpool(x, window, stride, padding=(0, 0)):
    """Max-pool x (N,H,W,C); `padding` is (low, high) of -inf on both axes, last size floored.

    `maxpool(x, 3, 2, (0, 1))` is PyTorch's `MaxPool2d(3, stride=2, ceil_mode=True)` for H, W >= 2.
    """
    return _maxpool_forward(np.asarray(x, np.float64), window, stride, padding)[0]


def _inception_forward(x, params, stats, train, units):
    """Four branches on x (N,H,W,I), concatenated on channels; also new statistics and cache.

    Each unit's output is put into the dict `units`.
    """
    pooled, pool_cache = _maxpool_forward(x, *BRANCH_POOL)
    outputs, new_stats, caches = [], {}, {}
    for number, branch in enumerate(BRANCHES):
        y = pooled if number == POOLED_BRANCH else x
        for name in branch:
            y, new_stats[name], caches[name] = _unit_forward(y, params[name], stats[name], train)
            units[name] = y
        outputs.append(y)
    widths = [y.shape[3] for y in outputs]
    return np.concatenate(outputs, axis=3), new_stats, (pool_cache, caches, widths)


def _inception_backward(dy, cache):
    """From dy (N,H,W,sum of branch widths) return dx (N,H,W,I) and the block's gradients."""
    pool_cache, caches, widths = cache
    dx, grads = 0.0, {}
    parts = np.split(dy, np.cumsum(widths)[:-1], axis=3)
    for number, (branch, d_branch) in enumerate(zip(BRANCHES, parts, strict=True)):
        for name in reversed(branch):
            d_branch, grads[name] = _unit_backward(d_branch, caches[name])
        if number == POOLED_BRANCH:
            d_branch = _maxpool_backward(d_branch, pool_cache)
        dx = dx + d_branch  # all branches read the same input
    return dx, grads


# --- The network, its loss and its optimiser ---


def forward(params, batch_stats, images, train, outputs=None):
    """Run the network on images (N,H,W,3).

    The output of each layer, and of each unit in a block, is put into the dict `outputs`.

    Returns logits (N,classes), the new batch statistics (equal to the given ones when not
    training) and the cache for the backward pass (None when not training).
    """
    params, batch_stats = as_float64(params), as_float64(batch_stats)
    x = np.asarray(images, np.float64)
    new_stats, caches = {}, {}
    outputs = {} if outputs is None else outputs
    for name in LAYERS:
        if name.startswith("maxpool"):
            x, caches[name] = _maxpool_forward(x, *CEIL_POOL)
        else:
            units, layer = {}, _unit_forward
            if name.startswith("inception"):
                layer = functools.partial(_inception_forward, units=units)
            x, new_stats[name], caches[name] = layer(x, params[name], batch_stats[name], train)
            outputs |= {f"{name}.{unit}": y for unit, y in units.items()}
        outputs[name] = x
    features = x.mean(axis=(1, 2))
    logits = features @ params["fc"]["kernel"] + params["fc"]["bias"]
    caches["fc"] = (features, params["fc"]["kernel"], x.shape)
    return logits, new_stats, caches if train else None


def _backward(d_logits, caches):
    """From d_logits (N,classes) return the gradients, nested as the parameters are."""
    features, fc_kernel, shape = caches["fc"]
    grads = {"fc": {"kernel": features.T @ d_logits, "bias": d_logits.sum(axis=0)}}
    d_features = d_logits @ fc_kernel.T
    # The average gives every position the same share of the gradient.
    dx = np.broadcast_to(d_features[:, None, None, :] / (shape[1] * shape[2]), shape)
    for name in reversed(LAYERS):
        if name.startswith("maxpool"):
            dx = _maxpool_backward(dx, caches[name])
            continue
        layer = _inception_backward if name.startswith("inception") else _unit_backward
        dx, grads[name] = layer(dx, caches[name])
    return grads


def loss_and_gradients(params, batch_stats, images, labels):
    """Mean softmax cross-entropy of images (N,H,W,3) and integer labels (N,), training mode.

    Returns (loss, logits (N,classes), gradients nested as params, new batch statistics). Weight
    decay is not part of the loss; `sgd_step` adds it.
    """
    logits, new_stats, caches = forward(params, batch_stats, images, train=True)
    rows, labels = np.arange(len(logits)), np.asarray(labels)
    shifted = logits - logits.max(axis=1, keepdims=True)  # so that exp cannot overflow
    log_softmax = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    loss = -log_softmax[rows, labels].mean()
    d_logits = np.exp(log_softmax)
    d_logits[rows, labels] -= 1
    return loss, logits, _backward(d_logits / len(logits), caches), new_stats


def sgd_step(params, gradients, buffers, learning_rate, momentum, weight_decay):
    """One SGD step with momentum and coupled weight decay on every parameter.

    `buffers` is nested as params (zeros before the first step). Returns (params, buffers), new.
    """
    params, gradients, buffers = map(as_float64, (params, gradients, buffers))
    buffers = tree_map(
        lambda p, g, b: momentum * b + g + weight_decay * p, params, gradients, buffers
    )
    return tree_map(lambda p, b: p - learning_rate * b, params, buffers), buffers
