"""The rates of right and wrong verdicts, in studies of planted networks and of nulls.

Every study is a function of its condition and its number, so the command can be stopped at any time and
resumed: measurements are kept, one line per study, in the folder of `--state`, and so are counts. Studies are
measured in rounds of all conditions. Then the verdicts are counted, and written to results/validation.json, from
which the tables of docs/validation.md are made (`validation_tables`), and the bands of relative costs to
src/nearzero/mechanisms/relative_costs.json. After a change of the package, begin with another folder.

    python benchmarks/validation.py [--state runs/validation] [--workers 2]   # measure, judge and count
    python benchmarks/validation.py --table                                   # print the tables
    python benchmarks/validation.py --write                                   # write them to docs/validation.md
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr

import validation_tables
from nearzero.analysis.matched import Design
from nearzero.analysis.verdict import Rules, Verdict, costs, judge
from nearzero.mechanisms import reference
from nearzero.mechanisms.studies import (
    Condition,
    as_responses,
    dealt,
    resampled,
    shifted,
    study_responses,
)

ROOT = Path(__file__).parents[1]
KEPT = ROOT / "results" / "validation.json"
SEED = 20260  # of all draws: [SEED, the condition, the purpose, study, run]
DRAWS = 5
RUNS = (6, 10, 20)
BATCH = 50  # studies that are judged as the networks of one table, each a model of its own
VARIABLES = (
    "accuracy",
    "centred_accuracy",
    "unperturbed_accuracy",
    "checked",
    "checked_accuracy",
    "unperturbed_checked_accuracy",
)
DEFAULT = Condition(mechanism="distance", activation="abs").families
ALL = ("shift", *DEFAULT, "noise")
RULES = {
    "default": Rules(),
    "earlier": Rules(distance=("shift",), test="difference", checks=()),
    "difference test": Rules(test="difference", checks=()),
    "distance = shift": Rules(distance=("shift",), checks=()),
    "distance = noise": Rules(distance=("noise",), checks=()),
    "centred accuracy": Rules(measure="centred_accuracy", checks=()),
}
PLANTED = [
    Condition(
        mechanism=mechanism,
        activation=activation,
        strength=strength,
        families=ALL,
        studies=300 if strength == 8 else 100,
    )
    for strength in (8.0, 4.0, 16.0)
    for mechanism in ("distance", "template")
    for activation in ("abs", "relu")
]
MIXED = [
    Condition(
        mechanism="mixed",
        activation=activation,
        share=share,
        strength=strength,
        families=("shift", *DEFAULT),
        studies=20 if strength != 8 else 80 if activation == "relu" else 40,
        runs=20 if strength == 8 else 10,
    )
    for strength in (8.0, 4.0, 16.0)
    for activation in ("abs", "relu")
    for share in (0.25, 0.5, 0.75)
]
CHECKED = [
    replace(each, families=DEFAULT, checked=True, studies=20 if each.strength == 8 else 10, runs=10)
    for each in PLANTED
]
ONE_FAMILY = Condition(mechanism="template", activation="relu", strength=6, null="one family", studies=20)
CHANCE = Condition(mechanism="distance", activation="abs", null="chance labels", studies=30)
COMMON = Condition(mechanism="template", activation="relu", strength=6, null="common draws", studies=10)
CONDITIONS = [*PLANTED, ONE_FAMILY, CHANCE, COMMON, *CHECKED, *MIXED]


@dataclass(frozen=True)
class Null:
    """A null whose studies have runs that are drawn from a pool of measured runs.

    Attributes:
        condition: the condition whose studies are the pool.
        kind: "dealt", costs dealt to the families; "shifted", mean differences of an exact size.
        pool: "study", the runs of one study, which is drawn; "all", those of all studies.
        difference: the size, in points, of a shifted null.
        rules: the name of the rules, one of `RULES`.
    """

    condition: Condition
    kind: Literal["dealt", "shifted"]
    pool: Literal["study", "all"] = "study"
    difference: float = 0.0
    rules: str = "default"

    @property
    def studies(self) -> int:
        """Return the number of studies; fewer do for rules that aren't the default ones."""
        return 1000 if self.rules == "default" else 200

    def pools(self, costs: xr.DataArray) -> list[xr.DataArray]:
        """Return the pools, (run, family, target), one of which each study draws; from (study, run, ...)."""
        pools = [costs.isel(study=study) for study in range(costs.sizes["study"])]
        if self.pool == "all":
            pools = [xr.concat(pools, "run")]
        if self.kind == "dealt":
            return pools
        return [shifted(pool, self.difference, RULES[self.rules]) for pool in pools]

    def study(self, pools: Sequence[xr.DataArray], number: int) -> xr.DataArray:
        """Return the costs of one study, (network, run, family, target)."""
        generator = self.condition.generator(SEED, f"{self.kind} {self.pool} {self.difference:g}", number)
        pool = pools[generator.integers(len(pools))]
        drawn = resampled(pool, generator, max(RUNS)).expand_dims("network")
        return dealt(drawn, generator) if self.kind == "dealt" else drawn


MARGIN = Rules().margin
HEADLINE = PLANTED[:4]  # the conditions of strength 8
NULLS = [
    *(Null(each, "dealt") for each in (*HEADLINE, ONE_FAMILY)),
    Null(CHANCE, "shifted"),
    *(
        Null(each, "shifted", pool, sign * MARGIN)
        for pool in ("study", "all")
        for each in HEADLINE
        for sign in (1, -1)
    ),
    *(
        Null(each, "shifted", "study", sign * MARGIN, rules)
        for rules in ("earlier", "difference test")
        for each in HEADLINE
        for sign in (1, -1)
    ),
]


# --- measuring ----------------------------------------------------------------------------------------------


def measured(condition: Condition, study: int) -> dict[str, Any]:
    """Measure one study: return what a verdict needs of its responses."""
    begin = time.process_time()
    responses = study_responses(condition, study, seed=SEED, design=Design(draws=DRAWS))
    own = responses[[name for name in VARIABLES if name in responses]].reset_coords(drop=True)
    return {
        "study": study,
        "variables": {name: [each.dims, each.values.tolist()] for name, each in own.items()},
        "coordinates": {name: own[name].values.tolist() for name in own.coords},
        "cpu_seconds": time.process_time() - begin,
    }


def responses_of(record: dict[str, Any], runs: int | None = None) -> xr.Dataset:
    """Return the responses of the first runs of a study."""
    variables = {
        name: (dims, np.array(values, float)) for name, (dims, values) in record["variables"].items()
    }
    if "checked" in variables:
        variables["checked"] = (variables["checked"][0], variables["checked"][1] > 0)
    return xr.Dataset(variables, record["coordinates"]).isel(run=slice(0, runs))


class State:
    """What is kept: a file for each condition, a line for each study; and the counts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def commit(self) -> str:
        """Return the commit of the code that measured the first study."""
        path = self.folder / "commit"
        if not path.exists():
            command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
            path.write_text(
                subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
            )
        return path.read_text().strip()

    def path(self, condition: Condition) -> Path:
        """Return the file of a condition, named by a digest of all settings on which its studies depend."""
        settings = asdict(replace(condition, studies=1)) | {"seed": SEED, "draws": DRAWS}
        return (
            self.folder / f"{condition.name.replace(', ', '_').replace(' ', '-')}-{_digest(settings)}.jsonl"
        )

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
        path = self.path(condition)
        cut = path.exists() and not path.read_bytes().endswith(b"\n")
        with path.open("a") as file:
            file.write("\n" * cut + json.dumps(record) + "\n")

    def counts(self, key: str) -> Path:
        """Return the file of counts that depend on the key."""
        return self.folder / f"counts-{_digest(key)}.json"


def _digest(settings: Any) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


def rounds(state: State) -> Iterator[tuple[Condition, int]]:
    """Yield the studies that are missing, a tenth of each condition after the other."""
    missing = {each: sorted(set(range(each.studies)) - set(state.of(each))) for each in CONDITIONS}
    for tenth in range(10):
        for condition, studies in missing.items():
            size = condition.studies / 10
            yield from ((condition, one) for one in studies if tenth * size <= one < (tenth + 1) * size)


def measure(state: State, workers: int) -> None:
    """Measure all missing studies."""
    jobs = list(rounds(state))
    print(f"{len(jobs)} studies to measure, by the code of {state.commit}", flush=True)
    with ProcessPoolExecutor(workers) as pool:
        waiting = {pool.submit(measured, *job): job[0] for job in jobs}
        for done, job in enumerate(as_completed(list(waiting)), 1):
            state.add(waiting.pop(job), job.result())
            if done % 50 == 0 or done == len(jobs):
                print(f"measured {done} of {len(jobs)} studies", flush=True)


# --- judging and counting -----------------------------------------------------------------------------------


def counted(state: State, condition: Condition) -> dict[str, Any]:
    """Return the counts of findings of a condition, by rules and number of runs, mean and relative costs."""
    records = state.of(condition)
    studies = [records[number] for number in sorted(records)]
    batches = list(batched([responses_of(each) for each in studies], condition.activation))
    families = batches[0].family.values.tolist()
    found = xr.concat([costs(each) for each in batches], "network")
    whole = xr.concat([each.unperturbed_accuracy for each in batches], "network")
    out: dict[str, Any] = {
        "condition": asdict(condition),
        "cpu_seconds": round(sum(each["cpu_seconds"] for each in studies)),
        "unperturbed": float(whole.mean()),
        "families": families,
        "costs": found.mean(("network", "run")).transpose("family", "target").values.tolist(),
        "verdicts": [],
    }
    for name, rules in RULES.items():
        there = rules.measure in batches[0] and set(rules.distance) <= set(families)
        if not there or (condition.checked and name != "default"):
            continue
        if not condition.checked:
            rules = replace(rules, checks=())
        for runs in (each for each in RUNS if each <= condition.runs):
            verdicts = [judge(each.isel(run=slice(0, runs)), rules) for each in batches]
            out["verdicts"].append({"rules": name, "runs": runs, **_counts(verdicts)})
    if condition in PLANTED:
        out["relative_costs"] = relative(judge(each) for each in batches)
    return out


def batched(studies: Sequence[xr.Dataset], activation: str) -> Iterator[xr.Dataset]:
    """Yield the responses of a batch of studies at a time."""
    for first in range(0, len(studies), BATCH):
        yield named(xr.concat(studies[first : first + BATCH], "network"), first, activation)


def named(batch: xr.Dataset, first: int, activation: str) -> xr.Dataset:
    """Return responses in which each network is a study, and a model of its own."""
    names = [f"study {first + number}" for number in range(batch.sizes["network"])]
    return batch.assign_coords(network=names, activation=("network", [activation] * len(names)))


def relative(verdicts: Iterator[Verdict]) -> list[dict[str, Any]]:
    """Return the relative costs in all studies, by family and displacement; None where undefined."""
    ratios = defaultdict(list)
    for verdict in verdicts:
        for row in verdict.relative_costs:
            ratios[row.intensity, row.target].append(row.ratio.ratio)
    return [{"family": key[0], "target": key[1], "ratios": values} for key, values in ratios.items()]


def count_null(state: State, null: Null) -> dict[str, Any]:
    """Return the counts of a null."""
    records = state.of(null.condition)
    rules = RULES[null.rules]
    families = [*rules.distance, *rules.intensity]
    found = [costs(responses_of(records[number])).isel(network=0) for number in sorted(records)]
    pool = xr.concat(found, "study").sel(family=families).transpose("study", "run", "family", "target")
    out: dict[str, Any] = {"null": asdict(null), "pool": int(pool.sizes["study"] * pool.sizes["run"])}
    pools = null.pools(pool.drop_vars(["network", "run", "study"], errors="ignore"))
    verdicts: dict[int, list[Verdict]] = {runs: [] for runs in RUNS}
    for first in range(0, null.studies, BATCH):
        numbers = range(first, min(first + BATCH, null.studies))
        drawn = xr.concat([null.study(pools, number) for number in numbers], "network")
        whole = xr.ones_like(drawn.isel(family=0, target=0, drop=True))
        batch = named(as_responses(drawn, whole), first, null.condition.activation)
        for runs, own in verdicts.items():
            own.append(judge(batch.isel(run=slice(0, runs)), rules))
    out["verdicts"] = [{"rules": null.rules, "runs": runs, **_counts(own)} for runs, own in verdicts.items()]
    return out


def _counts(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Return the numbers of studies by overall finding; by outcome of each check; and of comparisons."""
    overall = Counter(verdict.finding(study) for verdict in verdicts for study in verdict.networks)
    findings = Counter(one.finding for verdict in verdicts for one in verdict.comparisons)
    out: dict[str, Any] = {
        "studies": overall.total(),
        "overall": dict(sorted(overall.items())),
        "comparisons": dict(sorted(findings.items())),
    }
    if any(each.checks for each in verdicts):
        out["robustness"] = robustness(verdicts)
    return out


def robustness(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Return how many findings of a direction are robust, and by check, how many hold or turn."""
    robust: Counter[str] = Counter()
    outcomes: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for verdict in verdicts:
        for study in verdict.networks:
            for result in verdict.checked(study):
                outcomes[result.check][result.outcome] += 1
            if verdict.robustness(study) == "robust":
                robust[verdict.finding(study)] += 1
    return {"robust": dict(robust), "checks": {name: dict(each) for name, each in outcomes.items()}}


def job_of(state: State, task: Condition | Null) -> dict[str, Any]:
    """Return the counts of a condition or a null, from the state if they are there."""
    pool = task.condition if isinstance(task, Null) else task
    rules = {name: asdict(each) for name, each in RULES.items()}
    key = json.dumps([asdict(task), rules, sorted(state.of(pool)), SEED])
    path = state.counts(key)
    if not path.exists():
        result = count_null(state, task) if isinstance(task, Null) else counted(state, task)
        path.write_text(json.dumps(result))
    print(f"counted {pool.name}{' (null)' * isinstance(task, Null)}", flush=True)
    return dict(json.loads(path.read_text()))


def summary(state: State, workers: int) -> dict[str, Any]:
    """Return the results to keep."""
    with ProcessPoolExecutor(workers) as pool:
        results, nulls = (
            [pool.submit(job_of, state, task) for task in tasks] for tasks in (CONDITIONS, NULLS)
        )
        done = {"results": [job.result() for job in results], "nulls": [job.result() for job in nulls]}
    return {
        "command": "python benchmarks/validation.py",
        "commit": state.commit,
        "seed": SEED,
        "draws": DRAWS,
        "rules": {each.name: each.default for each in fields(Rules)},
        **done,
    }


def _lined(value: Any) -> str:
    """Return a value as JSON, a list with a line for each of its elements."""
    return (
        "[\n " + ",\n ".join(map(json.dumps, value)) + "\n]" if isinstance(value, list) else json.dumps(value)
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--state", type=Path, default=ROOT / "runs" / "validation", help="(runs/validation)")
    parser.add_argument("--workers", type=int, default=2, help="processes (2)")
    parser.add_argument(
        "--table", action="store_true", help="print the tables of what is kept, measure nothing"
    )
    parser.add_argument("--write", action="store_true", help="put them into docs/validation.md")
    parser.add_argument("--count", action="store_true", help="count what has been measured so far")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    if not options.table and not options.write:
        state = State(options.state)
        if not options.count:
            measure(state, options.workers)
        kept = summary(state, options.workers)
        values = (f'"{name}": {_lined(value)}' for name, value in kept.items())
        KEPT.write_text("{\n" + ",\n".join(values) + "\n}\n")
        reference.PATH.write_text(_lined(validation_tables.bands(kept["results"])) + "\n")
    kept = json.loads(KEPT.read_text())
    if options.write:
        validation_tables.write(validation_tables.tables(kept), *validation_tables.PAGES)
    else:
        print("\n\n".join(validation_tables.tables(kept).values()))


if __name__ == "__main__":
    main()
