"""Reinforcement learning with policy gradients: learns Pong, ``ALE/Pong-v5`` of gymnasium and ale-py, against its
built-in opponent.

Ten actors play, each with its own console. An actor plays some points with the given policy and returns the policy
gradient of what it did, not the play itself: so little is sent, and the actors share the work. The learner is this
process. It adds the gradients up and improves the policy (REINFORCE with standardised returns, Adam). The policy is put
into the object store once per iteration.

The policy sees where the ball and the paddles are, and how they move. The console's memory has that; to find it in the
picture is work for a larger network and a longer training. A game ends when one side has 21 points, and its score is
the difference: from -21 to 21. An untrained policy loses nearly every point.

The same seed gives the same training, on any number of CPUs: actors draw from their own random numbers, and gradients
are added in the order of the actors.

    python examples/pong.py                  # trains for 20 minutes, draws the scores to out/pong.png
    python examples/pong.py --minutes 5
    python examples/pong.py --short          # a few iterations
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import time
from pathlib import Path
from typing import Any, NamedTuple

import ale_py
import gymnasium
import numpy as np
from numpy.typing import NDArray

import zray

Array = NDArray[np.float64]
Policy = dict[str, Array]

BALL_X, OPPONENT, OWN, BALL_Y = 49, 50, 51, 54  # bytes of the console's memory
SEEN = 9  # numbers that the policy sees
HIDDEN = 64
UP, DOWN = 2, 3  # of the game's actions, the two that matter
DISCOUNT = 0.98
GOAL = 18.0  # the mean score of games at which the training ends
WINDOW = 30  # games of which the mean score is taken


def new_policy(rng: np.random.Generator) -> Policy:
    """A policy with random weights: one hidden layer, and the probability of a move upwards."""
    return {
        "hidden": rng.normal(0, 0.4, (SEEN, HIDDEN)),
        "hidden_bias": np.zeros(HIDDEN),
        "output": rng.normal(0, 0.1, HIDDEN),
        "output_bias": np.zeros(1),
    }


def up(policy: Policy, seen: Array) -> tuple[Array, Array]:
    """The activations of the hidden layer, and the probability of a move upwards, for one state or many."""
    hidden = np.tanh(seen @ policy["hidden"] + policy["hidden_bias"])
    return hidden, 1 / (1 + np.exp(-(hidden @ policy["output"] + policy["output_bias"])))


def gradient_of(policy: Policy, seen: Array, moves: Array, returns: Array) -> Policy:
    """The gradient of the log probability of the moves, each times its standardised return."""
    advantage = (returns - returns.mean()) / (returns.std() + 1e-8)
    hidden, probability = up(policy, seen)
    output = (moves - probability) * advantage / len(moves)
    back = np.outer(output, policy["output"]) * (1 - hidden**2)
    return {
        "hidden": seen.T @ back,
        "hidden_bias": back.sum(0),
        "output": output @ hidden,
        "output_bias": output.sum(keepdims=True),
    }


def returns_of(rewards: list[float]) -> Array:
    """For each step, the discounted reward of the point that it belongs to."""
    returns, following = np.zeros(len(rewards)), 0.0
    for step in range(len(rewards) - 1, -1, -1):
        following = rewards[step] or DISCOUNT * following  # a reward that is not 0 ends a point
        returns[step] = following
    return returns


class Played(NamedTuple):
    """What an actor did with a policy."""

    gradient: Policy
    steps: int
    won: int  # points
    lost: int
    scores: list[float]  # of the games that ended


@zray.remote
class Player:
    """An actor that plays with its own console. A game goes on from one call to the next."""

    def __init__(self, seed: int) -> None:
        gymnasium.register_envs(ale_py)
        self.game: Any = gymnasium.make("ALE/Pong-v5", obs_type="ram")
        self.memory = self.game.reset(seed=seed)[0]
        self.positions: Array | None = None  # None: a new point begins
        self.rng = np.random.default_rng(seed)
        self.score = 0.0

    def play(self, policy: Policy, points: int) -> Played:
        """Plays that many points."""
        seen: list[Array] = []
        moves: list[bool] = []
        rewards: list[float] = []
        scores: list[float] = []
        while points:
            seen.append(self.look())
            moves.append(bool(self.rng.random() < up(policy, seen[-1])[1].item()))
            self.memory, reward, ended, cut, _ = self.game.step(UP if moves[-1] else DOWN)
            rewards.append(float(reward))
            self.score += rewards[-1]
            if reward:  # a point ends
                self.positions = None
                points -= 1
            if ended or cut:
                scores.append(self.score)
                self.memory, self.positions, self.score = self.game.reset()[0], None, 0.0
        gradient = gradient_of(policy, np.array(seen), np.array(moves, dtype=float), returns_of(rewards))
        return Played(gradient, len(moves), rewards.count(1.0), rewards.count(-1.0), scores)

    def look(self) -> Array:
        """What the policy sees: positions, how they changed in the last step, the ball over the paddle."""
        positions = self.memory[[BALL_X, BALL_Y, OWN, OPPONENT]].astype(float)
        change = np.zeros(4) if self.positions is None else np.clip((positions - self.positions) / 8, -2, 2)
        self.positions = positions
        scaled = (positions - 128) / 64
        return np.concatenate([scaled, change, scaled[1:2] - scaled[2:3]])


class Learner:
    """Holds the policy, and improves it with Adam along the policy gradient."""

    def __init__(self, seed: int, rate: float = 0.01) -> None:
        self.policy = new_policy(np.random.default_rng(seed))
        self.rate, self.steps = rate, 0
        self.mean = {name: np.zeros_like(values) for name, values in self.policy.items()}
        self.square = {name: np.zeros_like(values) for name, values in self.policy.items()}

    def learn(self, gradients: list[Policy]) -> float:
        """Takes one step along the mean of the gradients. Returns its length."""
        self.steps += 1
        total = 0.0
        for name in self.policy:
            slope = np.mean([gradient[name] for gradient in gradients], axis=0)
            total += float((slope**2).sum())
            self.mean[name] += 0.1 * (slope - self.mean[name])
            self.square[name] += 0.001 * (slope**2 - self.square[name])
            mean = self.mean[name] / (1 - 0.9**self.steps)
            square = self.square[name] / (1 - 0.999**self.steps)
            self.policy[name] = self.policy[name] + self.rate * mean / (np.sqrt(square) + 1e-8)
        return float(np.sqrt(total))


class Point(NamedTuple):
    """One iteration of the learning curve."""

    iteration: int
    seconds: float
    steps: int  # of all iterations until here, by all actors
    won: int  # points
    lost: int
    gradient: float  # its length
    scores: list[float]  # of the games that ended


def train(players: list, learner: Learner, points: int, iterations: int, limit_s: float) -> list[Point]:
    """Plays and learns until the mean score reaches GOAL, or the iterations or the seconds are used up."""
    began, steps = time.perf_counter(), 0
    curve: list[Point] = []
    while len(curve) < iterations and time.perf_counter() - began < limit_s:
        policy = zray.put(learner.policy)
        played = zray.get([player.play.remote(policy, points) for player in players])
        length = learner.learn([each.gradient for each in played])
        steps += sum(each.steps for each in played)
        curve.append(
            Point(
                len(curve) + 1,
                time.perf_counter() - began,
                steps,
                sum(each.won for each in played),
                sum(each.lost for each in played),
                length,
                [score for each in played for score in each.scores],
            )
        )
        scores = latest_scores(curve)
        if len(curve) % 10 == 1 or len(curve) == iterations:
            show(curve[-1], scores)
        if len(scores) == WINDOW and np.mean(scores) >= GOAL:
            break
    return curve


def latest_scores(curve: list[Point]) -> list[float]:
    """The scores of the last games, at most WINDOW."""
    return [score for point in curve for score in point.scores][-WINDOW:]


def show(point: Point, scores: list[float]) -> None:
    """Prints a line of the learning curve."""
    mean = f"{np.mean(scores):8.1f}" if scores else "       -"
    won = point.won / (point.won + point.lost)
    print(
        f"  {point.iteration:9} {point.seconds:8.1f} {point.steps:9,} {won:8.0%} {mean} {point.gradient:10.2e}",
        flush=True,
    )


def record(curve: list[Point], path: Path) -> None:
    """Writes the learning curve to a CSV file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(Point._fields)
        for point in curve:
            writer.writerow([*point[:-1], " ".join(f"{score:g}" for score in point.scores)])


def draw(curve: list[Point], path: Path) -> None:
    """Draws the scores of all games, and their mean, to a PNG file."""
    import matplotlib

    matplotlib.use("Agg")  # needs no display
    from matplotlib import pyplot

    games = [(point.seconds / 60, score) for point in curve for score in point.scores]
    minutes, scores = zip(*games, strict=True) if games else ((), ())
    means = [np.mean(scores[max(0, end - WINDOW) : end]) for end in range(1, len(scores) + 1)]
    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    axes.plot(minutes, scores, ".", color="#0072b2", alpha=0.25, markeredgewidth=0, label="a game")
    axes.plot(minutes, means, color="#0072b2", label=f"mean of the last {WINDOW} games")
    axes.axhline(0, color="#999999", linestyle="--", linewidth=1)
    axes.set(title="ALE/Pong-v5 with policy gradients", xlabel="minutes", ylabel="score of a game", ylim=(-22, 22))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper left")
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description="Learns Pong with actors on zray.")
    parser.add_argument("--short", action="store_true", help="a few iterations with a few actors only")
    parser.add_argument("--players", type=int, default=10, help="actors that play")
    parser.add_argument("--points", type=int, default=4, help="that each of them plays per iteration")
    parser.add_argument("--minutes", type=float, default=20.0, help="of training")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("out"), help="directory for the learning curve")
    options = parser.parse_args()

    count, points, iterations = (3, 2, 4) if options.short else (options.players, options.points, 1_000_000)
    zray.init()
    players = [Player.remote(options.seed + rank) for rank in range(count)]
    learner = Learner(options.seed)
    print("  iteration  seconds     steps  pts won    score   gradient")
    curve = train(players, learner, points, iterations, options.minutes * 60)
    zray.shutdown()

    record(curve, options.out / "pong.csv")
    print(f"\ntrained for {len(curve)} iterations; the curve is in {options.out / 'pong.csv'}")
    if importlib.util.find_spec("matplotlib"):
        draw(curve, options.out / "pong.png")
        print(f"and drawn in {options.out / 'pong.png'}")


if __name__ == "__main__":
    main()
