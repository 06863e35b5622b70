"""Differentiable k-nearest neighbours on handwritten digits: `make demo`.

A small network maps 8x8 images to points in eight dimensions. Each training step takes queries and candidate
neighbours from the training set, finds each query's k nearest candidates and raises the share of them that have its
label. The choice of the nearest is a soft top-k, so the loss has a gradient with respect to the embedding; through
hard top-k there is none.

The task is that of NeuralSort (Grover et al. 2019, arXiv:1903.08850) and of top-k by optimal transport (Xie et al.
2020, arXiv:2002.06504), on scikit-learn's embedded digits instead of MNIST.
"""

import argparse
import functools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from jax import Array
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import SubFigure
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from tqdm import tqdm

import softjax as sj

NEIGHBOURS = 9
CLASSES = 10
WANTED = 0.97
HOW = ("method", "mode", "softness")
WIDTHS = (64, 128, 64, 8)
QUERIES, CANDIDATES = 256, 512
SHIFT = 0.5  # pixels by which training images are moved at random

Params = list[tuple[Array, Array]]
Optimizer = tuple[Params, Params]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Split:
    """Images, flattened and scaled to [0, 1], and their labels."""

    images: Array
    labels: Array


@dataclass
class History:
    """What the training loop saw."""

    loss: list[float] = field(default_factory=list)  # one entry a step
    steps: list[int] = field(default_factory=list)
    soft: list[float] = field(default_factory=list)
    hard: list[float] = field(default_factory=list)


def load(seed: int) -> tuple[Split, Split]:
    images, labels = load_digits(return_X_y=True)
    halves = train_test_split(images / 16.0, labels, test_size=500, stratify=labels, random_state=seed)
    train_x, test_x, train_y, test_y = (jnp.asarray(half) for half in halves)
    return Split(train_x.astype(jnp.float32), train_y), Split(test_x.astype(jnp.float32), test_y)


def init(key: Array) -> Params:
    keys = jax.random.split(key, len(WIDTHS) - 1)
    return [
        (jax.random.normal(key, (fan_in, fan_out)) * jnp.sqrt(2.0 / fan_in), jnp.zeros(fan_out))
        for key, fan_in, fan_out in zip(keys, WIDTHS[:-1], WIDTHS[1:], strict=True)
    ]


def embed(params: Params, images: Array) -> Array:
    """(batch, 64) images to (batch, 8) points."""
    hidden = images - 0.3
    for weights, bias in params[:-1]:
        hidden = jax.nn.relu(hidden @ weights + bias)
    weights, bias = params[-1]
    return hidden @ weights + bias


def similarities(params: Params, queries: Array, candidates: Array) -> Array:
    """(queries, candidates): minus the distance between embeddings."""
    difference = embed(params, queries)[:, None, :] - embed(params, candidates)[None, :, :]
    return -jnp.sqrt(jnp.sum(difference**2, axis=-1) + 1e-6)


def votes(params: Params, queries: Array, candidates: Split, **how) -> Array:
    """(queries, classes): the share of each label among the k nearest candidates."""
    _, nearest = sj.top_k(similarities(params, queries, candidates.images), NEIGHBOURS, **how)
    return jnp.mean(nearest, axis=-2) @ jax.nn.one_hot(candidates.labels, CLASSES)


def loss(params: Params, queries: Split, candidates: Split, **how) -> Array:
    """Mean negative log-probability of the right label."""
    shares = votes(params, queries.images, candidates, **how)
    wanted = jnp.take_along_axis(shares, queries.labels[:, None], axis=1)
    return -jnp.mean(jnp.log(wanted + 1e-3))


@functools.partial(jax.jit, static_argnames=HOW)
def right(params: Params, test: Split, train: Split, **how) -> Array:
    """(images,): whether the most voted label is the right one."""
    return jnp.argmax(votes(params, test.images, train, **how), axis=1) == test.labels


def accuracy(params: Params, test: Split, train: Split, **how) -> float:
    return float(jnp.mean(right(params, test, train, **how)))


def shifted(key: Array, images: Array) -> Array:
    """Each image moved by up to SHIFT pixels, bilinearly."""
    square = images.reshape(-1, 8, 8)
    for axis, subkey in zip((1, 2), jax.random.split(key), strict=True):
        amount = jax.random.uniform(subkey, (len(images), 1, 1), minval=-SHIFT, maxval=SHIFT)
        neighbour = jnp.where(amount > 0, jnp.roll(square, 1, axis), jnp.roll(square, -1, axis))
        square = (1 - jnp.abs(amount)) * square + jnp.abs(amount) * neighbour
    return square.reshape(images.shape)


def batch(key: Array, train: Split) -> tuple[Split, Split]:
    """Queries and candidates without a common image."""
    order_key, shift_key = jax.random.split(key)
    chosen = jax.random.permutation(order_key, len(train.labels))[: QUERIES + CANDIDATES]
    images, labels = shifted(shift_key, train.images[chosen]), train.labels[chosen]
    return Split(images[:QUERIES], labels[:QUERIES]), Split(images[QUERIES:], labels[QUERIES:])


def adam(params: Params, gradient: Params, state: Optimizer, step: Array, rate: Array) -> tuple[Params, Optimizer]:
    """One step of Adam (Kingma and Ba 2015, arXiv:1412.6980)."""
    mean, square = state
    mean = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, mean, gradient)
    square = jax.tree.map(lambda s, g: 0.999 * s + 0.001 * g**2, square, gradient)
    m_scale, s_scale = 1 / (1 - 0.9 ** (step + 1)), 1 / (1 - 0.999 ** (step + 1))
    params = jax.tree.map(lambda p, m, s: p - rate * m * m_scale / (jnp.sqrt(s * s_scale) + 1e-8), params, mean, square)
    return params, (mean, square)


def make_update(train: Split, steps: int, **how) -> Callable:
    @jax.jit
    def update(params, state, key, step):
        queries, candidates = batch(key, train)
        value, gradient = jax.value_and_grad(loss)(params, queries, candidates, **how)
        rate = 3e-3 * 0.5 * (1 + jnp.cos(jnp.pi * step / steps))
        return *adam(params, gradient, state, step, rate), value

    return update


def fit(params: Params, train: Split, test: Split, steps: int, key: Array, **how) -> tuple[Params, History]:
    update = make_update(train, steps, **how)
    zeros = jax.tree.map(jnp.zeros_like, params)
    state, history = (zeros, zeros), History()
    progress = tqdm(range(steps), desc="training", unit="step", mininterval=0.5, ncols=88)
    for step in progress:
        params, state, value = update(params, state, jax.random.fold_in(key, step), float(step))
        history.loss.append(float(value))
        progress.set_postfix(loss=f"{np.mean(history.loss[-20:]):.4f}", refresh=False)
        if step % max(1, steps // 20) == 0 or step == steps - 1:
            history.steps.append(step + 1)
            history.soft.append(accuracy(params, test, train, **how))
            history.hard.append(accuracy(params, test, train, mode="hard"))
    return params, history


def gradient_norm(params: Params, queries: Split, candidates: Split, **how) -> float:
    gradient = jax.jit(jax.grad(functools.partial(loss, **how)))(params, queries, candidates)
    return float(jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(gradient))))


def raw_pixel_accuracy(test: Split, train: Split) -> float:
    """The hard rule on the images themselves, the usual baseline on this data."""
    distance = jnp.sum((test.images[:, None, :] - train.images[None, :, :]) ** 2, axis=-1)
    _, nearest = jax.lax.top_k(-distance, NEIGHBOURS)
    shares = jnp.mean(jax.nn.one_hot(train.labels[nearest], CLASSES), axis=1)
    return float(jnp.mean(jnp.argmax(shares, axis=1) == test.labels))


INK, SOFT_INK, HARD_INK = "#222222", "#1f6fb4", "#d1702a"
PERMUTATION_SOFTNESS = {
    "softsort": (1.0, 0.3, 0.1, 0.03),
    "neuralsort": (3.0, 1.0, 0.3, 0.03),
    "ot": (0.1, 0.01, 0.001, 0.0001),
}


def draw_loss(axes: Axes, history: History) -> None:
    steps = np.arange(1, len(history.loss) + 1)
    smooth = [np.mean(history.loss[max(0, step - 20) : step]) for step in steps]
    axes.semilogy(steps, history.loss, color=SOFT_INK, alpha=0.25, linewidth=0.8)
    axes.semilogy(steps, smooth, color=SOFT_INK, linewidth=1.8)
    axes.set(title="Training loss", xlabel="step", ylabel="-log (share of right neighbours)")


def draw_accuracy(axes: Axes, history: History, raw: float) -> None:
    axes.plot(history.steps, [100 * a for a in history.soft], color=SOFT_INK, linewidth=1.8, label="soft top-k")
    axes.plot(history.steps, [100 * a for a in history.hard], color=HARD_INK, linewidth=1.2, label="hard top-k")
    axes.axhline(100 * raw, color=INK, linewidth=0.8, linestyle=":", label="hard, raw pixels")
    axes.set(title="Test accuracy (%)", xlabel="step", ylim=(85, 100))
    axes.legend(frameon=False, loc="lower right")


def draw_points(axes: Axes, title: str, points: Array, labels: Array) -> None:
    """The two leading principal components of the embedding."""
    centred = np.asarray(points) - np.mean(points, axis=0)
    plane = centred @ np.linalg.svd(centred, full_matrices=False)[2][:2].T
    colours = plt.get_cmap("tab10")(np.asarray(labels))
    axes.scatter(*plane.T, c=colours, s=5, linewidths=0)
    for digit in range(CLASSES):
        middle = np.median(plane[np.asarray(labels) == digit], axis=0)
        text = axes.text(*middle, str(digit), ha="center", va="center", fontsize=11, fontweight="bold", color=INK)
        text.set_path_effects([patheffects.withStroke(linewidth=3, foreground="white")])
    axes.set(title=title, xticks=[], yticks=[])


def draw_permutations(figure: SubFigure, key: Array) -> None:
    """One row a method: the soft permutation matrix of 16 numbers as softness falls; the hard one last."""
    values = jax.random.normal(key, (16,))
    figure.suptitle("Soft permutation of 16 numbers: rows are ranks, columns elements; each row sums to 1", fontsize=11)
    grid = figure.subplots(len(PERMUTATION_SOFTNESS), 5)
    for row, (method, levels) in zip(grid, PERMUTATION_SOFTNESS.items(), strict=True):
        soften = jax.jit(lambda x, softness, method=method: sj.argsort(x, softness=softness, method=method))
        panels = [(f"softness {level:g}", soften(values, level)) for level in levels]
        panels.append(("hard", sj.argsort(values, mode="hard")))
        for axes, (title, matrix) in zip(row, panels, strict=True):
            # The square root makes small weights visible.
            axes.imshow(np.sqrt(matrix), cmap="magma", vmin=0, vmax=1, interpolation="nearest")
            axes.set_title(title, fontsize=9)
            axes.set(xticks=[], yticks=[])
        row[0].set_ylabel(method)


def draw_neighbours(figure: SubFigure, runs: dict[str, Params], test: Split, train: Split) -> None:
    """A test image that the untrained embedding gets wrong, and its nearest training images."""
    before, *_, after = (right(params, test, train, mode="hard") for params in runs.values())
    query = int(jnp.argmax(~before & after))
    image, label = test.images[query : query + 1], int(test.labels[query])
    figure.suptitle(f"One test image (a {label}) and its {NEIGHBOURS} nearest training images", fontsize=11)
    grid = figure.subplots(len(runs), NEIGHBOURS + 1)
    for row, (name, params) in zip(grid, runs.items(), strict=True):
        nearest = jax.lax.top_k(similarities(params, image, train.images)[0], NEIGHBOURS)[1]
        images = [image[0], *train.images[nearest]]
        labels = [label, *train.labels[nearest].tolist()]
        for axes, picture, digit in zip(row, images, labels, strict=True):
            axes.imshow(np.asarray(picture).reshape(8, 8), cmap="gray_r", interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            colour = INK if axes is row[0] else "#2e8b57" if digit == label else "#c0392b"
            axes.spines[:].set(visible=True, color=colour, linewidth=2)
            axes.set_xlabel(str(digit), color=colour, labelpad=2)
        row[0].set_ylabel(name)


def draw(path: Path, history: History, runs: dict[str, Params], test: Split, train: Split) -> None:
    plt.rcParams.update({"font.size": 9, "axes.titlesize": 11, "axes.spines.top": False, "axes.spines.right": False})
    figure = plt.figure(figsize=(15, 8.5), layout="constrained")
    upper, lower = figure.subfigures(2, 1, height_ratios=[2.7, 1])
    left, right = upper.subfigures(1, 2, width_ratios=[1, 1.2])
    grid = left.subplots(2, 2)
    draw_loss(grid[0, 0], history)
    draw_accuracy(grid[0, 1], history, raw_pixel_accuracy(test, train))
    for axes, (name, params) in zip(grid[1], runs.items(), strict=True):
        draw_points(axes, f"Test images, {name}", embed(params, test.images), test.labels)
    draw_permutations(right, jax.random.key(3))
    draw_neighbours(lower, runs, test, train)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def report(before: Params, after: Params, train: Split, test: Split, **how) -> None:
    print(f"\n{'test accuracy':<24}{'soft top-k':>12}{'hard top-k':>12}")
    for name, params in {"before training": before, "after training": after}.items():
        soft, hard = accuracy(params, test, train, **how), accuracy(params, test, train, mode="hard")
        verdict = "" if params is before else f"   {'at least' if soft >= WANTED else 'below'} {WANTED:.0%}"
        print(f"{name:<24}{soft:>11.1%} {hard:>11.1%}{verdict}")
    print(f"{'64 raw pixels':<24}{'':>12}{raw_pixel_accuracy(test, train):>11.1%}")


def arguments() -> argparse.Namespace:
    summary = (__doc__ or "").split("\n\n")[0]
    parser = argparse.ArgumentParser(description=summary, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--method", default="softsort", choices=["softsort", "neuralsort", "ot"])
    parser.add_argument("--mode", default="smooth", choices=["smooth", "c0", "c1", "c2"])
    parser.add_argument("--softness", type=float, default=0.1)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("digits_knn.png"))
    return parser.parse_args()


def main() -> None:
    args = arguments()
    how = {"method": args.method, "mode": args.mode, "softness": args.softness}
    began = time.perf_counter()
    train, test = load(args.seed)
    key = jax.random.key(args.seed)
    print(f"{len(train.labels)} training and {len(test.labels)} test images, k = {NEIGHBOURS}")
    print(f"soft top-k: method {args.method}, mode {args.mode}, softness {args.softness:g}\n")

    before = init(key)
    after, history = fit(before, train, test, args.steps, key, **how)

    report(before, after, train, test, **how)
    queries, candidates = batch(key, train)
    soft = gradient_norm(before, queries, candidates, **how)
    hard = gradient_norm(before, queries, candidates, mode="hard")
    print(f"{'gradient norm at start':<24}{soft:>11.3g} {hard:>11.3g}\n")
    print(f"implementation: {sj.explain(sj.top_k, jnp.zeros((QUERIES, CANDIDATES)), NEIGHBOURS, **how)}")

    draw(args.out, history, {"before": before, "after": after}, test, train)
    print(f"{args.out} written; {time.perf_counter() - began:.0f} s in all")


if __name__ == "__main__":
    main()
