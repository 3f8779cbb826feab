"""Attribution methods written down once more, one image, one channel and one cell at a time, as their papers say."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

Head = Callable[[Tensor], Tensor]


def relu(grid: Tensor) -> Tensor:
    return torch.tensor([[max(0.0, value) for value in row] for row in grid.tolist()])


def combined(weights: list[float], features: Tensor) -> Tensor:
    total = torch.zeros(features.shape[1:])
    for weight, channel in zip(weights, features, strict=True):
        total = total + weight * channel
    return total


def gradient(head: Head, features: Tensor, target: int) -> Tensor:
    features = features.clone().requires_grad_()
    head(features[None])[0, target].backward()
    assert features.grad is not None
    return features.grad


def cells(grid: Tensor) -> list[tuple[int, int]]:
    return [(i, j) for i in range(grid.shape[0]) for j in range(grid.shape[1])]


def grad_cam(head: Head, features: Tensor, target: int) -> Tensor:
    grads = gradient(head, features, target)
    weights = [sum(grad[i, j].item() for i, j in cells(grad)) / grad.numel() for grad in grads]
    return relu(combined(weights, features))


def grad_cam_pp(head: Head, features: Tensor, target: int) -> Tensor:
    """Equations 10 to 19 of the paper with Y = exp(S), divided by exp(S)."""
    score = head(features[None])[0, target].item()
    exp, weights = math.exp(score), []
    for channel, grad in zip(features, gradient(head, features, target), strict=True):
        weight, total = 0.0, sum(channel[i, j].item() for i, j in cells(channel))
        for i, j in cells(grad):
            first, second, third = (exp * grad[i, j].item() ** power for power in (1, 2, 3))
            below = 2 * second + total * third
            weight += (second / below if below else 0.0) * max(0.0, first)
        weights.append(weight / exp)
    return relu(combined(weights, features))


def hires_cam(head: Head, features: Tensor, target: int) -> Tensor:
    total = torch.zeros(features.shape[1:])
    for channel, grad in zip(features, gradient(head, features, target), strict=True):
        for i, j in cells(grad):
            total[i, j] += grad[i, j] * channel[i, j]
    return total


def layer_cam(head: Head, features: Tensor, target: int) -> Tensor:
    total = torch.zeros(features.shape[1:])
    for channel, grad in zip(features, gradient(head, features, target), strict=True):
        for i, j in cells(grad):
            total[i, j] += max(0.0, grad[i, j].item()) * channel[i, j]
    return relu(total)


def xgrad_cam(head: Head, features: Tensor, target: int) -> Tensor:
    weights = []
    for channel, grad in zip(features, gradient(head, features, target), strict=True):
        total = sum(channel[i, j].item() for i, j in cells(channel))
        weights.append(sum((channel[i, j] / total * grad[i, j]).item() for i, j in cells(channel)))
    return relu(combined(weights, features))


def ablation_cam(head: Head, features: Tensor, target: int) -> Tensor:
    score, weights = head(features[None])[0, target].item(), []
    for channel in range(len(features)):
        left = features.clone()
        left[channel] = 0
        weights.append((score - head(left[None])[0, target].item()) / score)
    return relu(combined(weights, features))


def eigen_cam(head: Head, features: Tensor, target: int) -> Tensor:
    """The first principal direction by power iteration."""
    del head, target
    across = features.flatten(1).double()
    direction = torch.ones(len(features)).double()
    for _ in range(2000):
        direction = across @ (across.T @ direction)
        direction = direction / direction.norm()
    grid = combined(direction.tolist(), features)
    return grid if grid.sum() > 0 else -grid


def score_cam(model: nn.Module, image: Tensor, features: Tensor, target: int) -> Tensor:
    """Algorithm 1 of the paper, with the logit for f; the logit of the baseline cancels in the softmax."""
    scores = []
    for channel in features:
        mask = torch.nn.functional.interpolate(channel[None, None], image.shape[1:], mode="bilinear")[0]
        mask = (mask - mask.min()) / (mask.max() - mask.min())
        scores.append(model((image * mask)[None])[0, target].item())
    below = sum(math.exp(score) for score in scores)
    return relu(combined([math.exp(score) / below for score in scores], features))


def occlusion(model: nn.Module, image: Tensor, target: int, window: int, stride: int) -> Tensor:
    """Mean loss over the windows that cover a pixel; windows that fit exactly."""
    loss, count = torch.zeros(image.shape[1:]), torch.zeros(image.shape[1:])
    score = model(image[None])[0, target].item()
    for top in range(0, image.shape[1] - window + 1, stride):
        for left in range(0, image.shape[2] - window + 1, stride):
            place = slice(top, top + window), slice(left, left + window)
            hidden = image.clone()
            hidden[:, *place] = 0
            loss[place] += score - model(hidden[None])[0, target].item()
            count[place] += 1
    return loss / count


def bilinear(cells: Tensor, size: tuple[int, int]) -> Tensor:
    """Values of a grid, each at the centre of its cell, read at the centres of `size` cells."""
    result = torch.zeros(size)
    for i in range(size[0]):
        for j in range(size[1]):
            y, x = ((k + 0.5) * cells.shape[a] / size[a] - 0.5 for a, k in ((0, i), (1, j)))
            y, x = (min(max(v, 0.0), cells.shape[a] - 1.0) for a, v in ((0, y), (1, x)))
            top, left = int(y), int(x)
            down, right = min(top + 1, cells.shape[0] - 1), min(left + 1, cells.shape[1] - 1)
            upper = cells[top, left] * (1 - (x - left)) + cells[top, right] * (x - left)
            lower = cells[down, left] * (1 - (x - left)) + cells[down, right] * (x - left)
            result[i, j] = upper * (1 - (y - top)) + lower * (y - top)
    return result


def shapley(game: Callable[[tuple[int, ...]], float], players: int) -> list[float]:
    """Shapley values by their definition: over every coalition of the others."""
    values = []
    for player in range(players):
        value = 0.0
        for bits in range(2**players):
            team = tuple(k for k in range(players) if bits >> k & 1)
            if player in team:
                continue
            share = math.factorial(len(team)) * math.factorial(players - len(team) - 1) / math.factorial(players)
            value += share * (game((*team, player)) - game(team))
        values.append(value)
    return values
