"""An audit as tables: the faults, the rows of the published tables with all tests, and the paper's sentences.

`nearzero.paper.audit` decides on their contents, `render` on their layout.
"""

from nearzero.paper.audit.values import FAULTS, Audit, FaultEntry, LevelRow, Sentence, points, sentence_case
from nearzero.report.results import display_name
from nearzero.report.table import Cell, Column, Level, Number, PValue, Table, TAndP

__all__ = ["audited_tables", "fault_tables", "faults_table", "levels_table", "sentences_table"]

_FAULTS = (
    Column("fault", "fault", kind="text"),
    Column("network", "network", kind="text"),
    Column("quantity", "quantity", kind="text"),
    Column("published", "as published", "publ."),
    Column("as_run", "as run"),
    Column("put_right", "put right"),
    Column("n", "n", kind="count", spare=1),
    Column("words", "words", kind="text", spare=2),
)
_LEVELS = (
    Column("network", "network", kind="text"),
    Column("family", "family", kind="text"),
    Column("level", "level, %", "level\n%"),
    Column("n", "n", kind="count", spare=5),
    Column("displacement", "displacement, %", "d\n%", unit="percent"),
    Column("published", "published, %", "publ.\n%", unit="percent"),
    Column("as_run", "as run, %", "as run\n%", unit="percent"),
    Column("put_right", "put right, %", "put\nright, %", unit="percent"),
    Column("agreement", "agreement, %", "agree\n%", unit="percent", spare=3),
    Column("test", "test set, %", "test\n%", unit="percent", spare=2),
    Column("entry50", "vs entry 50", "t, p\nvs entry 50", kind="test", spare=6),
    Column("identity", "vs identity", "t, p\nvs identity", kind="test"),
    Column("p_holm", "p, Holm", "p, Holm", kind="text", spare=1),
    Column("within", "within the margin", "within", kind="text"),
)
_SENTENCES = (
    Column("sentence", "sentence", kind="text"),
    Column("network", "network", kind="text"),
    Column("finding", "finding", kind="text"),
    Column("held", "conditions that hold", "held", kind="text"),
    Column("numbers", "numbers", kind="text", spare=1),
    Column("rule", "rule", kind="text", spare=2),
)


def audited_tables(audit: Audit) -> tuple[Table, Table, Table]:
    """Return the three tables of an audit: sentences, faults, rows."""
    return sentences_table(audit), faults_table(audit), levels_table(audit)


def faults_table(audit: Audit) -> Table:
    """Return a table with a row for each entry, fault by fault."""
    return Table(
        name="audit",
        title=f"Faults of the published study, measured: {audit.title}",
        caption=(
            "As run: this study's own networks in its conduct, which is the paper's unless a notice says otherwise. "
            "Put right: the same networks without the fault. Means over n runs; a dash: there is nothing to say, or "
            "the words say why."
        ),
        columns=_FAULTS,
        rows=tuple(map(_fault_row, audit.entries)),
        notices=audit.notices,
        group="fault",
    ).without_empty("published")


def fault_tables(audit: Audit) -> tuple[Table, ...]:
    """Return the same entries as a table for each fault, with all notes in its caption: for a page or the screen."""
    tables = []
    for fault, name in FAULTS.items():
        entries = [entry for entry in audit.entries if entry.fault == fault]
        notes = dict.fromkeys(entry.note for entry in entries if entry.note)
        tables.append(
            Table(
                name=f"audit_{fault:02d}",
                title=f"Fault {fault}: {name}",
                caption=". ".join(map(sentence_case, notes)) + "." if notes else "",
                columns=_FAULTS[1:-1],
                rows=tuple(_fault_row(entry)[1:-1] for entry in entries),
            ).without_empty("published")
        )
    return tuple(tables)


def _fault_row(entry: FaultEntry) -> tuple[Cell, ...]:
    values = (entry.published, entry.as_run, entry.put_right)
    cells = (value if isinstance(value, str) else Number.of(value, entry.decimals) for value in values)
    name = f"{entry.fault} {FAULTS[entry.fault]}"
    return (name, display_name(entry.network), entry.quantity, *cells, entry.n, entry.note)


def levels_table(audit: Audit) -> Table:
    """Return a table with a row for each network and published level."""
    return Table(
        name="audit_levels",
        title=f"Rows of tables 2 to 4, put right: {audit.title}",
        caption=(
            "Accuracy over the training set, means over n runs. Put right: offset, with the mean logit shift of the "
            "other half of the examples taken out; clip, after the activation; scale, as algebra says. Displacement: "
            "sqrt(sum ||a' - a||^2 / sum ||a||^2). Agreement: predictions that stay as they were. t, p: paired t-test "
            "over runs, baseline less perturbed; p, Holm: against the identity, adjusted over all rows of this table. "
            f"Within: the identity's accuracy within {points(audit.margin)}, by two one-sided tests."
        ),
        columns=_LEVELS,
        rows=tuple(map(_level_row, audit.levels)),
        notices=audit.notices,
    ).without_empty("published")


def _level_row(row: LevelRow) -> tuple[Cell, ...]:
    accuracies = (row.published, row.as_run, row.put_right, row.agreement, row.test)
    entry_reason = "" if row.t_entry is not None else row.reason or "no test"
    return (
        display_name(row.network),
        row.family,
        Level(row.level),
        row.n,
        Number.of(row.displacement, 1),
        *map(Number.of, accuracies),
        TAndP(row.t_entry, row.p_entry, row.n, entry_reason),
        TAndP(row.t_identity, row.p_identity, row.n, row.reason),
        None if row.p_holm is None else PValue(row.p_holm, in_powers=True),
        None if row.within is None else "yes" if row.within else "no",
    )


def sentences_table(audit: Audit) -> Table:
    """Return a table with a row for each sentence and network."""
    return Table(
        name="audit_sentences",
        title=f"What is left of the paper's sentences: {audit.title}",
        caption=(
            "Sentences in other words than the paper's. Numbers: costs in points of accuracy, means over runs, with "
            f"95 % intervals, or 90 % ones where equality is asked; the margin is {points(audit.margin)}. A sentence "
            "survives if all conditions of its rule hold, in part if some do, and doesn't survive if none does. Two "
            "rules say otherwise. Scaling doesn't survive, whatever holds, if the sweep is flat by construction. The "
            "conclusion follows the verdict, its checks, and what intensity costs relative to distance in networks "
            "with a planted mechanism; its conditions are counted for reading. With fewer than six runs nothing is "
            "decided."
        ),
        columns=_SENTENCES,
        rows=tuple(map(_sentence_row, audit.sentences)),
        notices=audit.notices,
        group="sentence",
    )


def _sentence_row(row: Sentence) -> tuple[Cell, ...]:
    held = f"{row.held} of {row.conditions}" if row.conditions else None
    return (row.text, display_name(row.network), row.finding, held, row.numbers, row.rule)
