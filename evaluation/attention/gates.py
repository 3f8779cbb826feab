"""Say how accurate trainings of a sweep are after their last epoch, and how much they use their attention.

usage: python evaluation/attention/gates.py RUNS

RUNS is the folder of `ibviz train --sweep` with evaluation/attention/tuning/gates.toml. Prints a table of means over
seeds (lowest to highest) from the logs: of validation images, so nothing runs.
"""

import re
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from tables import row, spread

COLUMNS = {
    "validation_accuracy": "accuracy, own map",
    "validation_accuracy_mean_map": "each at its mean",
    "validation_accuracy_average_map": "average map",
    "validation_accuracy_other_map": "another image's",
    "validation_accuracy_reversed_map": "reversed",
    "validation_attention_mean": "mean attention",
    "validation_attention_deviation": "deviation within images",
}


def main(runs: Path) -> None:
    last: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for log in sorted(runs.glob("gate=*/log.parquet")):
        [(gate, price)] = re.findall(r"gate=(\w+),attention_price=([\d.]+),", log.parent.name)
        last.setdefault((gate, price), []).append(pq.read_table(log).to_pylist()[-1])
    head = ["gate", "price", "trainings", *COLUMNS.values()]
    print("\n".join([row(head), row(["---"] * len(head))]))
    for (gate, price), rows in last.items():
        means = [spread([values[column] for values in rows]) for column in COLUMNS]
        print(row([gate, price, str(len(rows)), *means]))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
