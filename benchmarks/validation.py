"""The rates of right and wrong verdicts, in studies of planted networks and of nulls.

Every study is a function of its condition and its number, so the command can be stopped at any time and
resumed: measurements are kept, one line per study, in the folder of `--state`. Then the verdicts are computed
and counted, and written to results/validation.json, from which the tables of docs/validation.md are made
(`validation_tables`). After a change of the package, begin with another folder.

    python benchmarks/validation.py [--state runs/validation] [--workers 2]   # measure, judge and count
    python benchmarks/validation.py --table                                   # print the tables
    python benchmarks/validation.py --write                                   # write them to docs/validation.md
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

import validation_tables
from nearzero.analysis.matched import Design
from nearzero.analysis.verdict import Rules, Verdict, costs, judge
from nearzero.mechanisms.power import overall_findings
from nearzero.mechanisms.studies import Condition, as_responses, dealt, study_responses

ROOT = Path(__file__).parents[1]
KEPT = ROOT / "results" / "validation.json"
SEED = 20250  # of all draws: [SEED, the purpose, condition, study, run]
DRAWS = 1  # instead of five, so costs of drawn families are noisier, and differences harder to detect
RUNS = {"default": (6, 10, 20), "signed shift": (6, 10), "centred": (6, 10)}  # by rules
MEASURES = ("accuracy", "centred_accuracy")
DEFAULT = Condition(mechanism="distance", activation="abs").families
RULES = {
    "default": Rules(),
    "signed shift": Rules(distance=("signed_shift",)),
    "centred": Rules(measure="centred_accuracy"),
}


BOTH = (*DEFAULT, "signed_shift")
HEADLINE = [
    Condition(mechanism="distance", activation="abs", families=BOTH),
    Condition(mechanism="template", activation="relu", families=BOTH),
]
CONDITIONS = [
    *HEADLINE,
    Condition(mechanism="template", activation="relu", strength=6, null="one family", studies=400, runs=10),
    Condition(mechanism="distance", activation="relu", families=BOTH, studies=30, runs=10),
    Condition(mechanism="template", activation="abs", families=BOTH, studies=30, runs=10),
    Condition(mechanism="distance", activation="abs", null="chance labels", studies=100, runs=6),
    *(
        Condition(
            mechanism=each.mechanism, activation=each.activation, strength=strength, studies=20, runs=10
        )
        for each in HEADLINE
        for strength in (2, 4, 16)
    ),
    *(
        Condition(mechanism="mixed", activation="abs", share=share, studies=20, runs=10)
        for share in (0.25, 0.5, 0.75)
    ),
    Condition(mechanism="template", activation="relu", strength=6, null="common draws", studies=20),
]


# --- measuring ----------------------------------------------------------------------------------------------


def measured(condition: Condition, study: int) -> dict[str, Any]:
    """Measure one study: return costs (run, family, target) by measure, and unperturbed accuracies."""
    begin = time.process_time()
    responses = study_responses(condition, study, seed=SEED, design=Design(draws=DRAWS))
    found = {name: costs(responses, name) for name in MEASURES if name in responses}
    return {
        "condition": condition.name,
        "study": study,
        **{name: each.isel(network=0).transpose("run", ...).values.tolist() for name, each in found.items()},
        "unperturbed": responses.unperturbed_accuracy.isel(network=0).values.tolist(),
        "families": responses.family.values.tolist(),
        "cpu_seconds": time.process_time() - begin,
    }


class State:
    """The kept measurements: a file for each condition, a line for each study."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, condition: Condition) -> Path:
        """Return the file of a condition, named by a digest of all settings on which its studies depend."""
        settings = asdict(replace(condition, studies=1)) | {"seed": SEED, "draws": DRAWS}
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
        return self.folder / f"{condition.name.replace(', ', '_').replace(' ', '-')}-{digest}.jsonl"

    def of(self, condition: Condition) -> dict[int, dict[str, Any]]:
        """Return the studies of a condition, by number; truncated lines are left out, and measured again."""
        studies = {}
        if self.path(condition).exists():
            for line in self.path(condition).read_text().splitlines():
                try:
                    record = json.loads(line)
                except json.JSONDecodeError:
                    continue
                if record["study"] < condition.studies:
                    studies[record["study"]] = record
        return studies

    def add(self, condition: Condition, record: dict[str, Any]) -> None:
        with self.path(condition).open("a") as file:
            file.write(json.dumps(record) + "\n")


def measure(state: State, workers: int) -> None:
    """Measure all missing studies."""
    with ProcessPoolExecutor(workers) as pool:
        for condition in CONDITIONS:
            missing = sorted(set(range(condition.studies)) - set(state.of(condition)))
            jobs = [pool.submit(measured, condition, study) for study in missing]
            for done, job in enumerate(as_completed(jobs), 1):
                state.add(condition, job.result())
                if done % 20 == 0 or done == len(jobs):
                    print(f"{condition.name}: {done} of {len(jobs)}", flush=True)


# --- judging and counting -----------------------------------------------------------------------------------


def counted(condition: Condition, records: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """Return the counts of findings of a condition, by rules and number of runs, and mean costs."""
    studies = [records[number] for number in range(condition.studies)]
    out: dict[str, Any] = {
        "condition": asdict(condition),
        "cpu_seconds": round(sum(each["cpu_seconds"] for each in studies)),
        "unperturbed": float(np.mean([each["unperturbed"] for each in studies])),
        "families": studies[0]["families"],
        "costs": _mean([each["accuracy"] for each in studies]),
        "verdicts": [],
    }
    for name, rules in RULES.items():
        if rules.measure in studies[0] and set(rules.distance) <= set(studies[0]["families"]):
            for runs in (each for each in RUNS[name] if each <= condition.runs):
                verdicts = [judge(_again(each, rules, runs), rules) for each in studies]
                out["verdicts"].append({"rules": name, "runs": runs, **_counts(verdicts)})
    return out


def deal_out(condition: Condition, records: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """Return the counts for the null in which a planted study's costs are dealt to its families at random."""
    out: dict[str, Any] = {
        "condition": asdict(replace(condition, null="dealt", families=DEFAULT)),
        "verdicts": [],
    }
    shuffled = []
    for number in range(condition.studies):
        responses = _again(records[number], Rules(), condition.runs)
        found = costs(responses).sel(family=list(DEFAULT))
        new = dealt(found, condition.generator(SEED, "dealt", number))
        shuffled.append(as_responses(new, responses.unperturbed_accuracy))
    for runs in (each for each in RUNS["default"] if each <= condition.runs):
        verdicts = [judge(each.isel(run=slice(0, runs))) for each in shuffled]
        out["verdicts"].append({"rules": "default", "runs": runs, **_counts(verdicts)})
    return out


def _mean(values: list[Any]) -> list[list[float | None]]:
    """Average costs (study, run, family, target) over runs that reach the displacement; None if none does."""
    array = np.array(values, dtype=float)
    reached = np.isfinite(array).sum(axis=(0, 1))
    total = np.nansum(array, axis=(0, 1))
    return [
        [t / n if n else None for t, n in zip(*row, strict=True)] for row in zip(total, reached, strict=True)
    ]


def _again(record: dict[str, Any], rules: Rules, runs: int) -> xr.Dataset:
    """Return the first runs of a study as responses."""
    network = {"network": [record["condition"].split(", ")[1]]}
    coordinates = {**network, "family": record["families"], "target": list(rules.targets)}
    values = np.array(record[rules.measure], dtype=float)[None, :runs]
    found = xr.DataArray(values, coordinates, ("network", "run", "family", "target"))
    whole = xr.DataArray(np.array(record["unperturbed"])[None, :runs], network, ("network", "run"))
    return as_responses(found, whole, measure=rules.measure)


def _counts(verdicts: list[Verdict]) -> dict[str, Any]:
    """Return the number of studies by overall finding, and of those with any adjusted p below alpha."""
    below = [
        any(one.p_adjusted is not None and one.p_adjusted < each.rules.alpha for one in each.comparisons)
        for each in verdicts
    ]
    findings = Counter(one.finding for each in verdicts for one in each.comparisons)
    return {
        "studies": len(verdicts),
        "overall": overall_findings(verdicts),
        "comparisons": dict(sorted(findings.items())),
        "any_p_below_alpha": sum(below),
    }


def summary(state: State, workers: int) -> dict[str, Any]:
    """Return the results to keep."""
    records = {condition.name: state.of(condition) for condition in CONDITIONS}
    with ProcessPoolExecutor(workers) as pool:
        jobs = [
            *(pool.submit(counted, each, records[each.name]) for each in CONDITIONS),
            *(pool.submit(deal_out, each, records[each.name]) for each in HEADLINE),
        ]
        results = [job.result() for job in jobs]
    return {
        "command": "python benchmarks/validation.py",
        "seed": SEED,
        "draws": DRAWS,
        "rules": {each.name: each.default for each in fields(Rules)},
        "results": results,
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--state", type=Path, default=ROOT / "runs" / "validation", help="(runs/validation)")
    parser.add_argument("--workers", type=int, default=2, help="processes (2)")
    parser.add_argument(
        "--table", action="store_true", help="print the tables of what is kept, measure nothing"
    )
    parser.add_argument("--write", action="store_true", help="put them into docs/validation.md")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    if not options.table and not options.write:
        state = State(options.state)
        measure(state, options.workers)
        KEPT.write_text(json.dumps(summary(state, options.workers), indent=1) + "\n")
    kept = json.loads(KEPT.read_text())
    if options.write:
        validation_tables.write(validation_tables.tables(kept))
    else:
        print("\n\n".join(validation_tables.tables(kept).values()))


if __name__ == "__main__":
    main()
