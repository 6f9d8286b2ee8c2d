"""A parameter server, synchronous and asynchronous: workers compute gradients, an actor owns the weights.

The network learns to tell code from prose: is a line of a Python file a statement, or part of a docstring? Its input is
a line as counts of hashed letter triples. The lines come from the installed standard library. `ast` finds the
docstrings, so the labels are correct. Modules of the test set are not used for training.

Synchronous: every worker computes a gradient at the same weights. The server averages the gradients into one step.
Asynchronous: the server applies each gradient as soon as its worker is ready. The worker continues with the newest
weights. No worker waits for the slowest, but gradients may be a few steps old.

    python examples/parameter_server.py
    python examples/parameter_server.py --short
"""

from __future__ import annotations

import argparse
import ast
import random
import sysconfig
import time
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

import zray

Array = NDArray[np.float32]

FEATURES, HIDDEN, BATCH = 2048, 64, 128
SEED = 7


class Weights(NamedTuple):
    """A network with one hidden layer. The same shape holds a gradient."""

    hidden: Array
    hidden_bias: Array
    output: Array
    output_bias: Array

    @classmethod
    def initial(cls) -> Weights:
        """Random weights, the same in each run."""
        rng = np.random.default_rng(SEED)
        hidden = rng.normal(0, 1 / np.sqrt(HIDDEN), (FEATURES, HIDDEN)).astype(np.float32)
        output = rng.normal(0, 1 / np.sqrt(HIDDEN), HIDDEN).astype(np.float32)
        return cls(hidden, np.zeros(HIDDEN, np.float32), output, np.zeros(1, np.float32))


class Data(NamedTuple):
    """Lines as rows of features. The label of code is 1, the label of prose is 0."""

    lines: Array
    labels: Array


def forward(weights: Weights, lines: Array) -> tuple[Array, Array]:
    """The activations of the hidden layer, and the probability that each line is code."""
    hidden = np.maximum(lines @ weights.hidden + weights.hidden_bias, 0)
    return hidden, 1 / (1 + np.exp(-(hidden @ weights.output + weights.output_bias)))


def gradient(weights: Weights, batch: Data) -> Weights:
    """The gradient of the mean cross-entropy over the batch."""
    hidden, code = forward(weights, batch.lines)
    error = (code - batch.labels) / len(batch.labels)
    back = np.outer(error, weights.output) * (hidden > 0)
    return Weights(batch.lines.T @ back, back.sum(0), error @ hidden, error.sum(keepdims=True))


def evaluate(weights: Weights, data: Data) -> tuple[float, float]:
    """The mean cross-entropy, and the fraction of lines that are classified correctly."""
    code = np.clip(forward(weights, data.lines)[1], 1e-6, 1 - 1e-6)
    loss = -np.mean(data.labels * np.log(code) + (1 - data.labels) * np.log(1 - code))
    return float(loss), float(np.mean((code > 0.5) == (data.labels > 0.5)))


@zray.remote
class ParameterServer:
    """An actor that owns the weights. It moves them against the given gradients, with momentum."""

    def __init__(self, rate: float, momentum: float = 0.8) -> None:
        self.rate, self.momentum = rate, momentum
        self.weights = Weights.initial()
        self.velocity = Weights(*(np.zeros_like(part) for part in self.weights))

    def apply(self, *gradients: Weights) -> Weights:
        """Takes one step against the mean of the gradients. Returns the new weights.

        Makes new arrays and does not change the old ones, because those are still being sent to the workers.
        """
        means = (sum(parts) / len(gradients) for parts in zip(*gradients, strict=True))
        self.velocity = Weights(*(self.momentum * v - self.rate * m for v, m in zip(self.velocity, means, strict=True)))
        self.weights = Weights(*(w + v for w, v in zip(self.weights, self.velocity, strict=True)))
        return self.weights

    def current(self) -> Weights:
        """The weights now."""
        return self.weights


@zray.remote
class Worker:
    """An actor that computes gradients on random batches of its shard of the data."""

    def __init__(self, data: Data, rank: int, workers: int) -> None:
        self.shard = Data(data.lines[rank::workers], data.labels[rank::workers])
        self.rng = np.random.default_rng(SEED + rank)

    def gradient(self, weights: Weights) -> Weights:
        """The gradient on one random batch."""
        rows = self.rng.integers(len(self.shard.labels), size=BATCH)
        return gradient(weights, Data(self.shard.lines[rows], self.shard.labels[rows]))


def train_synchronously(server, workers, steps: int) -> Iterator[int]:
    """Yields the number of applied gradients after each step."""
    weights = server.current.remote()
    for step in range(1, steps // len(workers) + 1):
        # No data comes through this process: here, gradients and weights are only references.
        weights = server.apply.remote(*[worker.gradient.remote(weights) for worker in workers])
        zray.wait([weights])
        yield step * len(workers)


def train_asynchronously(server, workers, steps: int) -> Iterator[int]:
    """The same, one worker at a time: a worker that has finished gets the newest weights."""
    weights = server.current.remote()
    running = {worker.gradient.remote(weights): worker for worker in workers}
    for step in range(1, steps + 1):
        [ready], _ = zray.wait(list(running))
        worker = running.pop(ready)
        weights = server.apply.remote(ready)
        running[worker.gradient.remote(weights)] = worker
        yield step


def features(line: str) -> Array:
    """The counts of the letter triples, hashed to FEATURES columns and scaled to length one."""
    row = np.zeros(FEATURES, np.float32)
    text = f"^{line}$".encode()
    for i in range(len(text) - 2):
        row[zlib.crc32(text[i : i + 3]) % FEATURES] += 1
    return row / np.linalg.norm(row)


def labelled_lines(path: Path) -> Iterator[tuple[str, int]]:
    """Yields the lines of a module with at least 8 characters, without indentation and comments: 1 for code, else 0."""
    text = path.read_bytes().decode(errors="replace")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text)
    except SyntaxError:
        return
    prose: set[int] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Expr(value=ast.Constant(value=str())) if node.end_lineno:
                prose.update(range(node.lineno, node.end_lineno + 1))
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip().strip('"').strip()  # the quotes would reveal a docstring
        if len(stripped) >= 8 and not stripped.startswith("#"):
            yield stripped[:80], int(number not in prose)


@zray.remote
def prepare(paths: list[Path], limit: int) -> Data:
    """Lines of some modules, the same number of code and of prose, at most `limit` in total."""
    lines = [labelled for path in paths for labelled in labelled_lines(path)]
    random.Random(SEED).shuffle(lines)
    halves = [[text for text, label in lines if label == wanted][: limit // 2] for wanted in (0, 1)]
    even = min(map(len, halves))
    chosen = [(text, label) for label in (0, 1) for text in halves[label][:even]]
    random.Random(SEED).shuffle(chosen)
    return Data(
        np.stack([features(text) for text, _ in chosen]), np.array([label for _, label in chosen], dtype=np.float32)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Trains a network with a parameter server on zray.")
    parser.add_argument("--short", action="store_true", help="few lines, few steps")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    examples, steps = (2_000, 320) if options.short else (12_000, 1_600)

    zray.init()
    paths = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    random.Random(SEED).shuffle(paths)
    held_out = len(paths) // 5
    train, test = prepare.remote(paths[held_out:], examples), prepare.remote(paths[:held_out], examples // 4)
    held = zray.get(test)
    print(f"{zray.get(train).lines.shape[0]:,} lines to learn from, {len(held.labels):,} of other modules to test on")

    for name, method in (("synchronous", train_synchronously), ("asynchronous", train_asynchronously)):
        server = ParameterServer.remote(rate=0.1)
        workers = [Worker.remote(train, rank, options.workers) for rank in range(options.workers)]
        zray.get([worker.gradient.remote(Weights.initial()) for worker in workers])  # wait until all have started
        print(f"\n{name}, {options.workers} workers\n  gradients     loss   accuracy")
        began = time.perf_counter()
        for done in method(server, workers, steps):
            if done % (steps // 8) == 0:
                loss, accuracy = evaluate(zray.get(server.current.remote()), held)
                print(f"  {done:9,} {loss:8.3f} {accuracy:10.1%}", flush=True)
        print(f"  {steps / (time.perf_counter() - began):,.0f} gradients per second")
    zray.shutdown()


if __name__ == "__main__":
    main()
