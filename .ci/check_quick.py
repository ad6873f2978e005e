"""Check the quick study: table 1 is near the published numbers, and tables 2 to 4 have all rows."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import nearzero as nz
from nearzero.paper.published import published

BOUNDS = {  # network, quantity: lowest and highest mean, %
    ("abs", "train_accuracy"): (99.9, 100.0),
    ("relu", "train_accuracy"): (97.33, 99.33),
    ("abs", "test_accuracy"): (94.29, 96.29),
    ("relu", "test_accuracy"): (94.61, 96.61),
}


def main(folder: str) -> int:
    """Print each number with its bounds; return 1 if anything is wrong."""
    study = nz.Study.open(folder)
    errors = 0
    for (network, quantity), (low, high) in BOUNDS.items():
        values = 100 * study.history[quantity].sel(network=network).isel(step=-1)
        fits = low <= float(values.mean()) <= high
        errors += not fits
        print(
            f"{network:5} {quantity:15} {float(values.mean()):6.2f} in {low} to {high}: {'yes' if fits else 'NO'}"
        )
    if study.spec.data != "mnist" or study.notices:
        print(f"the study isn't complete, or not on the full MNIST: {study.notices}")
        errors += 1
    for number, family in ((2, "scale"), (3, "clip"), (4, "offset")):
        with (Path(folder) / "tables" / f"table{number}_{family}.csv").open() as file:
            rows = [row for row in csv.DictReader(file) if row["published_accuracy_percent"]]
        expected = 2 * len(published().families[family])
        errors += len(rows) != expected or not all(row["difference_points"] for row in rows)
        print(f"table {number}: {len(rows)} of {expected} published rows have a measured number")
    for figure in (1, 2, 3, 4):
        files = list((Path(folder) / "figures").glob(f"figure{figure}_*"))
        errors += {path.suffix for path in files} != {".png", ".pdf"}
    evaluations = study.response.accuracy.notnull().sum().item()
    print(f"evaluations: {evaluations} of {40 * 325}")
    errors += evaluations != 40 * 325
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
