"""Would RISE need fewer passes with a nonlinear surrogate of the score, or with masks drawn by its prediction?

usage: python -m evaluation.rise_surrogates DATA [--out evaluation/results/passes] [--pools pools] [--photographs 8]
                                                 [--networks MobileNetV2 ...]

Networks, photographs and measure of error are those of `evaluation/passes.py`. For each photograph and network a pool
of masks and their complements is scored once, and kept in `--pools`. The pool stands for the law of the masks: the true
map is its mean, what a surrogate contributes to the map is its mean over the pool (which takes no pass), and estimators
draw from it. The squared error of the published estimator follows from the pool without drawing. Maps are compared as
coefficients of the principal components of the masks. Writes `surrogates.md`.

The surrogate is a ridge regression of the log-odds of the score on the means of the mask over a coarse grid. With
normal residuals it gives mean and variance of the score for any mask. As a control variate it is fitted to other folds
of masks than the one it is subtracted from, so that estimates are unbiased. Importance sampling scores 40 masks, fits
the surrogate, and draws the others with probability alpha + (1 - alpha) r / E[r], r the predicted deviation (without a
control variate: the predicted root mean square); scores are weighted by the inverse. "Shrunk" estimates are biased:
they multiply the mean of what the surrogate leaves by max(0, 1 - squared standard error / squared size), so that the
bias vanishes with many masks. Rows "limit" know what no estimator knows: importance sampling by the true score, the
best without a control variate, and with the surrogate of 3,000 masks that are not counted.
"""

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from evaluation.passes import GRID, NETWORKS, photographs
from ibviz.attribution.control_variate import Features, cross_fit, mask_features, mask_law, ridge
from ibviz.attribution.methods import predict
from ibviz.attribution.perturbation import draw_masks, mask_scores, shifted_masks
from ibviz.benchmark.evaluation import versions
from ibviz.files import replacing
from ibviz.models.hooks import evaluating
from ibviz.progress import progress
from ibviz.table_formats import TextTable, markdown_of
from ibviz.types import Images

SIDE, PAIRS, COMPONENTS = 128, 6144, 100
POOL_SEED, SEED = 5000, 0
RESAMPLES = {200: 40, 1000: 10}  # by number of passes
PUBLISHED = 4000  # masks whose error is to be reached
FOLDS = 8
FIRST, ALPHA, FIRST_SHARE = 40, 0.15, 0.5  # of importance sampling; weight of a first mask beside a later one
FREE = 3000  # masks of the surrogate of the limit
PENALTIES = (0.03, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
NODES = (0.0, 0.9585724646138185, -0.9585724646138185, 2.0201828704560856, -2.0201828704560856)  # Gauss-Hermite
NODE_WEIGHTS = (0.9453087204829419, 0.39361932315224116, 0.39361932315224116, 0.01995324205904591, 0.01995324205904591)
Scores = Float[Tensor, " n"]
Places = Int[Tensor, " drawn"]  # of masks in the pool
Map = Float[Tensor, " components"]
Predictor = Callable[[Places, Tensor], Scores]  # from masks and their weights to a score of each mask in the pool


class Pool(NamedTuple):
    """Masks, then their complements, in the same order."""

    features: Features
    masks: Float[Tensor, "n components"]  # Z minus its mean over pixels
    scores: Scores
    log_odds: Scores
    truth: Map

    def squared(self, estimate: Map) -> float:
        """Return the squared error relative to the true map."""
        return float((estimate - self.truth).square().sum() / self.truth.square().sum())

    def share(self, values: Scores) -> Map:
        """Return the map of a score that is known for all masks."""
        return 2 * values @ self.masks / len(self.masks)

    @property
    def published(self) -> float:
        """The squared error of one published mask, relative to the true map."""
        square, truth = (self.scores * self.masks.norm(dim=1)).square().mean(), self.truth.square().sum()
        return float(4 * square / truth) - 1


class Estimate(NamedTuple):
    """What surrogates know of the map, the mean of what they leave, and its squared standard error."""

    known: Map
    rest: Map
    noise: float

    def unbiased(self) -> Map:
        return self.known + self.rest

    def shrunk(self) -> Map:
        return self.known + max(0.0, 1 - self.noise / float(self.rest.square().sum())) * self.rest


def scored(path: Path, network: str, image: Images, data: Path, seed: int) -> Pool:
    """Score a pool of masks, or read it from a file."""
    size = (image.shape[2], image.shape[3])
    draws = draw_masks(PAIRS, GRID, size, seed)
    if not path.is_file():
        model = NETWORKS[network](data, SIDE)
        with evaluating(model), torch.inference_mode():
            target = predict(model, image).argmax(1)
            scores = mask_scores(model, image, target, draws, torch.arange(PAIRS), 2, 64)[:, :, 0].clone()
        with replacing(path) as beside:
            torch.save({"scores": scores}, beside)
    scores = torch.load(path)["scores"].flatten().double()
    shown = [
        F.avg_pool2d(shifted_masks(draws.cells[block], draws.shifts[block], size)[:, None], 4).flatten(1)
        for block in torch.arange(PAIRS).split(512)
    ]
    pixels = torch.cat(shown).double()
    pixels -= pixels.mean(1, keepdim=True)
    masks = pixels @ torch.linalg.eigh(pixels.T @ pixels)[1][:, -COMPONENTS:]
    masks = torch.cat([masks, -masks])
    sides = [-(-side // cells) for side, cells in zip(size, GRID, strict=True)]
    rows, columns = (mask_law(*axis) for axis in zip(size, GRID, sides, strict=True))
    features = mask_features(draws.cells, draws.shifts, (rows, columns))
    log_odds = torch.logit(scores.clamp(1e-12, 1 - 1e-7))
    return Pool(torch.cat([features, -features]), masks, scores, log_odds, 2 * scores @ masks / len(masks))


def predicted(pool: Pool, places: Places) -> tuple[Scores, Scores]:
    """Fit the surrogate to some masks, and return mean and variance of the score of each mask in the pool."""
    chosen, log_odds = pool.features[places], pool.log_odds[places]
    middle = chosen.mean(0)
    sizes, axes = torch.linalg.eigh((chosen - middle).T @ (chosen - middle))
    sizes, centred = sizes.clamp(min=0), log_odds - log_odds.mean()
    moment = axes.T @ (chosen - middle).T @ centred
    best, least, deviation = torch.zeros_like(moment), math.inf, float(centred.std())
    for penalty in PENALTIES:
        shrunk, free = moment / (sizes + penalty), len(places) - 1 - float((sizes / (sizes + penalty)).sum())
        squares = float((centred - (chosen - middle) @ axes @ shrunk).square().sum())
        if free > 1 and squares / free**2 < least:
            best, least, deviation = shrunk, squares / free**2, math.sqrt(squares / free)
    expected = log_odds.mean() + (pool.features - middle) @ (axes @ best)
    weights = expected.new_tensor(NODE_WEIGHTS) / math.sqrt(math.pi)
    states = torch.sigmoid(expected[:, None] + deviation * math.sqrt(2) * expected.new_tensor(NODES))
    mean = states @ weights
    return mean, (states.square() @ weights - mean.square()).clamp(min=0)


def logistic(pool: Pool, places: Places) -> Scores:
    """Fit a logistic ridge regression of the score, its penalty by four folds, and predict each mask in the pool."""

    def newton(rows: Tensor, scores: Scores, penalty: float) -> Tensor:
        weight = torch.full((rows.shape[1],), penalty, dtype=rows.dtype)
        weight[0] = 1e-3
        beta = torch.zeros_like(weight)
        beta[0] = torch.logit(scores.mean().clamp(1e-4, 0.999))
        for _ in range(8):
            chance = torch.sigmoid(rows @ beta)
            curvature = rows.T @ (rows * (chance * (1 - chance)).clamp(min=1e-6)[:, None]) + weight.diag()
            step = torch.linalg.solve(curvature, rows.T @ (scores - chance) - weight * beta)
            beta = beta + step * min(1.0, 3 / float(step.abs().max() + 1e-12))
        return beta

    every = torch.cat([pool.features.new_ones(len(pool.features), 1), pool.features], 1)
    rows, scores, fold = every[places], pool.scores[places], torch.arange(len(places)) % 4
    losses = []
    for penalty in (0.01, 0.04, 0.16):
        chances = torch.zeros_like(scores)
        for number in range(4):
            held = fold == number
            chances[held] = torch.sigmoid(rows[held] @ newton(rows[~held], scores[~held], penalty))
        losses.append((float(F.binary_cross_entropy(chances.clamp(1e-6, 1 - 1e-6), scores)), penalty))
    return torch.sigmoid(every @ newton(rows, scores, min(losses)[1]))


def log_odds_and_linear(pool: Pool, places: Places) -> Scores:
    """Fit the surrogate, and a linear one to what it leaves."""
    mean = predicted(pool, places)[0]
    left = (pool.scores - mean)[places]
    return mean + pool.features @ ridge(pool.features[places], (left - left.mean())[:, None])[:, 0]


def controlled(
    pool: Pool,
    surrogate: Callable[[Pool, Places], Scores],
    places: Places,
    unit: Int[Tensor, " drawn"],
    weights: Float[Tensor, " drawn"] | None = None,
    extra: Places | None = None,
) -> Estimate:
    """Return the estimate with a control variate that is fitted to the units of other folds, and to extra masks."""
    fold, known = unit % FOLDS, torch.zeros_like(pool.truth)
    terms = torch.zeros(int(unit.max()) + 1, len(pool.truth), dtype=torch.float64)
    weights = torch.ones(len(places), dtype=torch.float64) if weights is None else weights
    for number in range(FOLDS):
        held: Bool[Tensor, " drawn"] = fold == number
        learned = places[~held] if extra is None else torch.cat([extra, places[~held]])
        values, own = surrogate(pool, learned), places[held]
        known += pool.share(values) * held.double().mean()
        parts = 2 * (weights[held] * (pool.scores[own] - values[own]))[:, None] * pool.masks[own]
        terms.index_add_(0, unit[held], parts)
    terms /= len(places) / len(terms)
    rest = terms.mean(0)
    return Estimate(known, rest, float((terms - rest).square().sum()) / (len(terms) * (len(terms) - 1)))


def pairs(pool: Pool, count: int, draws: torch.Generator) -> tuple[Places, Int[Tensor, " drawn"]]:
    """Draw masks with their complements, and number their pairs."""
    half = len(pool.scores) // 2
    chosen = torch.randperm(half, generator=draws)[: count // 2]
    return torch.cat([chosen, chosen + half]), torch.arange(count // 2).repeat(2)


def importance(pool: Pool, count: int, control: bool, draws: torch.Generator) -> Estimate:
    """Draw the first masks in pairs and the others by the surrogate's prediction, without those drawn already."""
    first, unit = pairs(pool, FIRST, draws)
    level = pool.scores[first].mean()

    def mean(_: Pool, learned: Places) -> Scores:
        return predicted(pool, learned)[0] if control else level.expand(len(pool.scores))

    begun = controlled(pool, mean, first, unit)
    expected, variance = predicted(pool, first)
    wanted = (variance if control else variance + expected.square()).sqrt()
    left = torch.ones(len(wanted), dtype=torch.bool)
    left[first] = False
    chances = torch.where(left, ALPHA + (1 - ALPHA) * wanted / wanted[left].mean(), 0.0)
    chances /= chances.sum()
    order, later = torch.randperm(len(chances), generator=draws), count - FIRST
    steps = (torch.arange(later) + torch.rand(1, generator=draws, dtype=torch.float64)) / later
    sums = chances[order].cumsum(0)
    chosen = order[torch.searchsorted(sums, steps * sums[-1]).clamp(max=len(order) - 1)]  # systematic sampling
    weights = 1 / (chances[chosen] * left.sum())
    ended = controlled(pool, mean, chosen, torch.randperm(later, generator=draws), weights, first)
    share = FIRST_SHARE * FIRST / (FIRST_SHARE * FIRST + later)
    return Estimate(
        share * begun.known + (1 - share) * ended.known,
        share * begun.rest + (1 - share) * ended.rest,
        share**2 * begun.noise + (1 - share) ** 2 * ended.noise,
    )


def default(pool: Pool, count: int, draws: torch.Generator) -> Estimate:
    """Estimate as `rise` does by default."""
    chosen = pairs(pool, count, draws)[0][: count // 2]
    half, masks, features = len(pool.scores) // 2, pool.masks[chosen], pool.features[chosen]
    fitted = cross_fit(features, (pool.scores[chosen] - pool.scores[chosen + half])[:, None])
    terms = fitted.rest * masks
    rest = terms.mean(0)
    noise = float((terms - rest).square().sum()) / (len(terms) * (len(terms) - 1))
    return Estimate(pool.share(pool.features @ fitted.beta[:, 0]) / 2, rest, noise)


def estimates(pool: Pool, count: int, draws: torch.Generator) -> dict[str, Map]:
    """Estimate the map in every way from a number of passes."""

    def mean(_: Pool, places: Places) -> Scores:
        return predicted(pool, places)[0]

    single = torch.randperm(len(pool.scores), generator=draws)[:count]
    alone, (paired, unit) = torch.arange(count), pairs(pool, count, draws)
    today = default(pool, count, draws)
    plain, both = controlled(pool, mean, single, alone), controlled(pool, mean, paired, unit)
    weighted = importance(pool, count, True, draws)
    return {
        "paired, linear control variate (default)": today.unbiased(),
        "plain, log-odds": plain.unbiased(),
        "paired, log-odds": both.unbiased(),
        "paired, log-odds and linear": controlled(pool, log_odds_and_linear, paired, unit).unbiased(),
        "paired, logistic": controlled(pool, logistic, paired, unit).unbiased(),
        "importance sampling": importance(pool, count, False, draws).unbiased(),
        "importance sampling, log-odds": weighted.unbiased(),
        "default, shrunk": today.shrunk(),
        "plain, log-odds, shrunk": plain.shrunk(),
        "paired, log-odds, shrunk": both.shrunk(),
        "importance sampling, log-odds, shrunk": weighted.shrunk(),
    }


def limits(pool: Pool, draws: torch.Generator) -> dict[str, float]:
    """Return the squared errors of one mask: drawn by the true score, and with a surrogate of many free masks."""
    size, norms = float(pool.truth.square().sum()), pool.masks.norm(dim=1)
    by_score = float((2 * pool.scores * norms).mean()) ** 2 / size - 1
    order = torch.randperm(len(norms), generator=draws)
    mean, variance = predicted(pool, order[:FREE])
    left = order[FREE:]
    wanted = variance[left].sqrt()
    rest = 2 * (pool.scores - mean)[left] * norms[left]
    return {
        "limit: drawn by the true score": by_score,
        "limit: surrogate of 3,000 free masks": float(
            (rest.square() / (ALPHA + (1 - ALPHA) * wanted / wanted.mean())).mean() / size
        ),
    }


class Result(NamedTuple):
    """Squared errors of a photograph by a network, relative to the true map."""

    network: str
    photograph: str
    published: float  # of one mask
    means: dict[int, dict[str, float]]  # by passes and estimator
    spreads: dict[int, dict[str, float]]  # standard errors of the means


def measured(pool: Pool, network: str, photograph: str) -> Result:
    """Resample every estimator."""
    means, spreads = dict[int, dict[str, float]](), dict[int, dict[str, float]]()
    for count, resamples in RESAMPLES.items():
        errors = dict[str, list[float]]()
        for number in range(resamples):
            draws = torch.Generator().manual_seed(SEED + 1000 * count + number)
            for name, estimate in estimates(pool, count, draws).items():
                errors.setdefault(name, []).append(pool.squared(estimate))
        values = {name: torch.tensor(some) for name, some in errors.items()}
        means[count] = {name: float(some.mean()) for name, some in values.items()}
        spreads[count] = {name: float(some.std()) / math.sqrt(resamples) for name, some in values.items()}
        bounds = limits(pool, torch.Generator().manual_seed(SEED))
        means[count] |= {name: squared / count for name, squared in bounds.items()}
    return Result(network, photograph, pool.published, means, spreads)


def tables(results: list[Result]) -> list[TextTable]:
    """Return the gains of each estimator, and the errors of each photograph at the least number of passes."""
    least, most = min(RESAMPLES), max(RESAMPLES)
    names = list(results[0].means[least])
    reference = names[0]

    def told(gains: list[float]) -> str:
        return f"{median(gains):.2f} [{min(gains):.2f}, {max(gains):.2f}]"

    gains = []
    for network in dict.fromkeys(result.network for result in results):
        own = [result for result in results if result.network == network]
        for name in names:
            to_plain = [result.published / least / result.means[least][name] for result in own]
            to_default = [
                [result.means[count][reference] / result.means[count][name] for result in own]
                for count in (least, most)
            ]
            reached = sum(result.means[least][name] <= result.published / PUBLISHED for result in own)
            gains.append([network, name, told(to_plain), *map(told, to_default), f"{reached} of {len(own)}"])
    header = [
        "network",
        "estimator",
        f"gain to published, {least} passes",
        f"gain to default, {least}",
        f"gain to default, {most:,}",
        f"{least} reach {PUBLISHED:,} published",
    ]
    errors = [
        [
            result.photograph,
            result.network,
            f"{math.sqrt(result.published / PUBLISHED):.2f}",
            *(f"{math.sqrt(max(0.0, result.means[least][name])):.2f}" for name in names),
        ]
        for result in results
    ]
    titles = ["photograph", "network", f"published {PUBLISHED:,}", *names]
    return [TextTable("", header, gains), TextTable("", titles, errors)]


def page(results: list[Result], seconds: float, device: str) -> str:
    """Return the tables, with what the numbers depend on."""
    spreads = [
        spread / result.means[count][name]
        for result in results
        for count, some in result.spreads.items()
        for name, spread in some.items()
    ]
    networks = [result.network for result in results]
    numbers = " and ".join(f"{networks.count(network)} by {network}" for network in dict.fromkeys(networks))
    counts = ", ".join(f"{resamples} resamples of {count:,} passes" for count, resamples in RESAMPLES.items())
    facts = (
        f"Median [least, most] over photographs; gains are ratios of mean squared errors. {counts} from pools of "
        f"{2 * PAIRS:,} masks, seeds {POOL_SEED} and up (pools) and {SEED} (resamples); the standard error of a mean "
        f"squared error is {100 * median(spreads):.0f} % of it (median; at most {100 * max(spreads):.0f} %). "
        f"n = {numbers}; photographs of {SIDE} x {SIDE} pixels. {device}, one "
        f"thread, shared with other work, {seconds:,.0f} s without the scores of the pools. "
        + ", ".join(f"{name} {version}" for name, version in versions().items())
        + "."
    )
    command = "```\npython -m evaluation.rise_surrogates DATA\n```"
    return "\n\n".join([command, facts, *(markdown_of(table) for table in tables(results))]) + "\n"


def main(data: Path, out: Path, pools: Path, count: int, labels: list[str]) -> None:
    torch.set_num_threads(1)
    pools.mkdir(parents=True, exist_ok=True)
    names, images = photographs(data, count, SIDE)
    jobs = [(network, number) for network in labels for number in range(count)]
    results, seconds = list[Result](), 0.0
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    device = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "unknown processor")
    for network, number in progress(jobs, "networks x photographs", total=len(jobs)):
        path = pools / f"{network.split()[0]}_{number}.pt"
        pool = scored(path, network, images[[number]], data, POOL_SEED + number)
        begun = time.perf_counter()
        results.append(measured(pool, network, names[number]))
        seconds += time.perf_counter() - begun
        with replacing(out / "surrogates.md") as beside:
            beside.write_text(page(results, seconds, device))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("evaluation/results/passes"))
    parser.add_argument("--pools", type=Path, default=Path("pools"))
    parser.add_argument("--photographs", type=int, default=8)
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    given = parser.parse_args()
    main(given.data, given.out, given.pools, given.photographs, given.networks)
