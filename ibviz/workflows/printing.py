"""Output of the command line for epochs and results."""

import sys
from pathlib import Path
from typing import Any

from ibviz.errors import InputError
from ibviz.progress import tell

NEAR_CHANCE = 1.2  # times the accuracy of guessing


def print_epoch(row: dict[str, Any]) -> None:
    """Print an epoch of a training in one line, and its warning on standard error."""
    print(
        f"epoch {row['epoch']:3d}  {row['seconds']:6.1f} s  learning rate {row['learning_rate']:.4g}  "
        f"train CE {row['train_cross_entropy_bits']:.3f} bits  rate {row['validation_rate_bits']:.1f} bits  "
        f"anchors used {row['validation_anchors_used']}  validation accuracy {row['validation_accuracy']:.1%}",
        flush=True,
    )
    if row["warning"] is not None:
        print(f"ibviz: epoch {row['epoch']}: {row['warning']}", file=sys.stderr)


def print_epoch_of(name: str, row: dict[str, Any]) -> None:
    """Print an epoch of a named training."""
    print(name, end="  ")
    print_epoch(row)


def print_trained(folder: Path) -> None:
    """Print where the best weights of a training are, and say so if they know nothing."""
    from ibviz.models.classifier import IBClassifier
    from ibviz.models.loading import load

    path = folder / "model.safetensors"
    print(f"best weights: {path}")
    model = load(path)
    assert isinstance(model, IBClassifier)
    chance, accuracy = 1 / len(model.spec.class_names), model.facts["validation"]["accuracy"]
    if accuracy < NEAR_CHANCE * chance:
        print(
            f"ibviz: these weights are no better than chance: validation accuracy {accuracy:.1%}, of "
            f"{len(model.spec.class_names)} classes {chance:.1%}; train for more epochs, change the learning rate (lr "
            "under [training]), or look at images and labels",
            file=sys.stderr,
        )


def print_unfit(method: str, error: InputError) -> None:
    """Print why a method is left out."""
    tell(f"{method} left out: {' '.join(str(error).split()).removeprefix(method).lstrip(': ')}")


def print_results(folder: Path) -> None:
    """Print the result of a suite: skipped images, accuracies and the table."""
    from ibviz.benchmark.results import read_results
    from ibviz.workflows.evaluate import accuracy_of

    results = read_results(folder)
    if skipped := results.circumstances["skipped"]:
        print(f"{len(skipped)} images skipped, unreadable: {', '.join(skipped[:10])}")
    for name, (accuracy, count) in accuracy_of(results).items():
        print(f"accuracy of {name} on the {count} labelled images judged: {accuracy:.1%}")
    print(f"\n{(folder / 'table.txt').read_text()}\ntables, rows and figures: {folder}")
