"""Reinforcement learning with policy gradients: balances a pole on a cart, gymnasium's CartPole-v1.

The actors play. Each has its own environment and plays whole episodes with the given policy. The learner is this
process. It collects the episodes and improves the policy (REINFORCE with returns standardised over the batch, Adam). A
network of one hidden layer in numpy is enough. The policy is put into the object store once per iteration, for any
number of actors. An episode ends after 500 steps, so 500 is the best possible mean reward.

    python examples/cartpole.py                  # learns to 450 and more, draws the curve to out/cartpole.png
    python examples/cartpole.py --short          # a few iterations
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import NamedTuple

import gymnasium
import numpy as np
from numpy.typing import NDArray

import zray

Array = NDArray[np.float64]
Policy = dict[str, Array]

HIDDEN = 32
DISCOUNT = 0.99
EPISODES = 16  # played per iteration, by all actors together
GOAL = 475.0  # the mean reward at which CartPole-v1 counts as solved


def new_policy(rng: np.random.Generator) -> Policy:
    """A policy with random weights."""
    return {
        "hidden": rng.normal(0, 0.5, (4, HIDDEN)),
        "hidden_bias": np.zeros(HIDDEN),
        "output": rng.normal(0, 0.1, HIDDEN),
        "output_bias": np.zeros(1),
    }


def push_right(policy: Policy, states: Array) -> tuple[Array, Array]:
    """The activations of the hidden layer, and the probability of a push to the right, for one state or many."""
    hidden = np.tanh(states @ policy["hidden"] + policy["hidden_bias"])
    return hidden, 1 / (1 + np.exp(-(hidden @ policy["output"] + policy["output_bias"])))


class Episodes(NamedTuple):
    """The steps of some episodes, one after the other, and the rewards of the episodes."""

    states: Array
    actions: Array
    returns: Array  # for each step, the discounted sum of the rewards from there on
    rewards: list[float]


@zray.remote
class Player:
    """An actor that plays episodes in its own environment."""

    def __init__(self, seed: int) -> None:
        self.environment = gymnasium.make("CartPole-v1")
        self.environment.reset(seed=seed)
        self.rng = np.random.default_rng(seed)

    def play(self, policy: Policy, episodes: int) -> Episodes:
        """Plays to learn: draws actions from the policy's probabilities."""
        states, actions, returns, rewards = [], [], [], []
        for _ in range(episodes):
            seen, done = self.episode(policy, explore=True)
            states += seen
            actions += done
            rewards.append(float(len(done)))
            # The reward of each step is 1, so the discounted sum is a geometric sum.
            returns.append((1 - DISCOUNT ** np.arange(len(done), 0, -1)) / (1 - DISCOUNT))
        return Episodes(np.array(states), np.array(actions, dtype=float), np.concatenate(returns), rewards)

    def test(self, policy: Policy, episodes: int) -> list[float]:
        """Plays to measure: always takes the more probable action. Returns the rewards."""
        return [float(len(self.episode(policy, explore=False)[1])) for _ in range(episodes)]

    def episode(self, policy: Policy, explore: bool) -> tuple[list[Array], list[int]]:
        """Plays one episode. Returns its states and actions."""
        states, actions = [], []
        state, over = self.environment.reset()[0], False
        while not over:
            probability = push_right(policy, state)[1].item()
            action = int((self.rng.random() if explore else 0.5) < probability)
            states.append(state)
            actions.append(action)
            state, _, fell, timeout, _ = self.environment.step(action)
            over = fell or timeout
        return states, actions


class Learner:
    """Holds the policy, and improves it with Adam along the policy gradient."""

    def __init__(self, seed: int, rate: float = 0.01) -> None:
        self.policy = new_policy(np.random.default_rng(seed))
        self.rate, self.steps = rate, 0
        self.mean = {name: np.zeros_like(values) for name, values in self.policy.items()}
        self.square = {name: np.zeros_like(values) for name, values in self.policy.items()}

    def learn(self, batches: list[Episodes]) -> None:
        """Improves the policy by one step of Adam."""
        states = np.concatenate([batch.states for batch in batches])
        actions = np.concatenate([batch.actions for batch in batches])
        returns = np.concatenate([batch.returns for batch in batches])
        advantage = (returns - returns.mean()) / (returns.std() + 1e-8)

        hidden, right = push_right(self.policy, states)
        output = (actions - right) * advantage / len(actions)  # d(log probability of the action) x advantage
        back = np.outer(output, self.policy["output"]) * (1 - hidden**2)
        self.ascend(
            {
                "hidden": states.T @ back,
                "hidden_bias": back.sum(0),
                "output": output @ hidden,
                "output_bias": output.sum(keepdims=True),
            }
        )

    def ascend(self, gradient: Policy) -> None:
        """Takes one step of Adam along the gradient."""
        self.steps += 1
        for name, slope in gradient.items():
            self.mean[name] += 0.1 * (slope - self.mean[name])
            self.square[name] += 0.001 * (slope**2 - self.square[name])
            mean = self.mean[name] / (1 - 0.9**self.steps)
            square = self.square[name] / (1 - 0.999**self.steps)
            self.policy[name] = self.policy[name] + self.rate * mean / (np.sqrt(square) + 1e-8)


class Point(NamedTuple):
    """One iteration of the learning curve."""

    seconds: float
    rewards: list[float]


def train(players: list, learner: Learner, iterations: int) -> list[Point]:
    """Plays and learns until the mean reward of an iteration reaches GOAL, or the iterations are used up."""
    began, curve = time.perf_counter(), []
    for iteration in range(1, iterations + 1):
        policy = zray.put(learner.policy)
        batches = zray.get([player.play.remote(policy, EPISODES // len(players)) for player in players])
        learner.learn(batches)
        rewards = [reward for batch in batches for reward in batch.rewards]
        curve.append(Point(time.perf_counter() - began, rewards))
        if iteration % 10 == 0 or iteration == 1:
            print(f"  {iteration:9} {np.mean(rewards):12.1f} {curve[-1].seconds:9.1f}", flush=True)
        if np.mean(rewards) >= GOAL:
            break
    return curve


def test(players: list, policy: Policy, episodes: int) -> list[float]:
    """Plays episodes without exploring, on all players. Returns the rewards."""
    shared = zray.put(policy)
    results = zray.get([player.test.remote(shared, episodes // len(players)) for player in players])
    return [reward for rewards in results for reward in rewards]


def draw(curve: list[Point], path: Path) -> None:
    """Draws the learning curve to a PNG file."""
    import matplotlib

    matplotlib.use("Agg")  # needs no display
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    seconds = [point.seconds for point in curve]
    means = [float(np.mean(point.rewards)) for point in curve]
    lows, highs = zip(*((min(point.rewards), max(point.rewards)) for point in curve), strict=True)
    axes.fill_between(seconds, lows, highs, color="#0072b2", alpha=0.15, linewidth=0, label="worst to best episode")
    axes.plot(seconds, means, color="#0072b2", label=f"mean of {EPISODES} episodes")
    axes.axhline(GOAL, color="#999999", linestyle="--", linewidth=1)
    axes.set(title="CartPole-v1 with policy gradients", xlabel="seconds", ylabel="reward", ylim=(0, 510))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description="Learns CartPole-v1 with actors on zray.")
    parser.add_argument("--short", action="store_true", help="a few iterations only")
    parser.add_argument("--players", type=int, default=2, help="actors that play")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("out"), help="directory for the learning curve")
    options = parser.parse_args()

    zray.init()
    players = [Player.remote(options.seed + rank) for rank in range(options.players)]
    learner = Learner(options.seed)
    before = float(np.mean(test(players, learner.policy, 20)))
    print(f"untrained: mean reward {before:.1f}\n\n  iteration  mean reward   seconds")
    curve = train(players, learner, 5 if options.short else 300)
    after = float(np.mean(test(players, learner.policy, 20 if options.short else 100)))
    zray.shutdown()

    path = options.out / "cartpole.png"
    draw(curve, path)
    print(f"\ntrained for {len(curve)} iterations, {curve[-1].seconds:.1f} s: mean reward {after:.1f}; see {path}")


if __name__ == "__main__":
    main()
