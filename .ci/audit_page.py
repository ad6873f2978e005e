"""Make or check `docs/audit.md`, the page of the audit, from the study in `results/paper`.

python .ci/audit_page.py --write    # make the page
python .ci/audit_page.py            # check that the page is up to date

The path of another folder with the same study may follow.
"""

from __future__ import annotations

import sys
from pathlib import Path

from pages import write_or_check

import nearzero as nz
from nearzero.paper.audit.values import Audit, Sentence, sentence_case
from nearzero.report.audit import fault_tables
from nearzero.report.render import to_markdown
from nearzero.report.results import display_name

KEPT, PAGE, WORDS = Path("results/paper"), Path("docs/audit.md"), Path(".ci/templates/audit.md")


LEVELS = (
    "## Every published row, put right\n\n"
    "[The rows of tables 2 to 4](../results/paper/tables/audit_levels.csv) have displacement, accuracy with the faults "
    "put right, agreement, test accuracy, and tests against both baselines."
)


def page(folder: Path) -> str:
    """Return the whole page: text from `.ci/templates/audit.md`, numbers from the study."""
    audit = nz.Study.open(folder).audited()
    faults = [to_markdown(table).replace("## ", "### ", 1).strip() for table in fault_tables(audit)]
    return (
        "\n\n".join(
            (
                WORDS.read_text(encoding="utf-8").strip(),
                f"The study: {audit.title}.",
                "## What is left of its sentences",
                overview(audit),
                *(in_full(audit, name) for name in audit.names),
                "## Its faults, one by one",
                *faults,
                LEVELS,
            )
        )
        + "\n"
    )


def overview(audit: Audit) -> str:
    """Return a table of the findings: a row for each sentence, a column for each network."""
    networks = list(dict.fromkeys(sentence.network for sentence in audit.sentences))
    rows = [["sentence", *map(display_name, networks)], ["---"] * (len(networks) + 1)]
    for name in audit.names:
        own = {sentence.network: sentence for sentence in audit.sentences if sentence.name == name}
        rows.append([next(iter(own.values())).text, *(own[network].finding for network in networks)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def in_full(audit: Audit, name: str) -> str:
    """Return the section of a sentence, with its rule and the numbers of each network."""
    own = [sentence for sentence in audit.sentences if sentence.name == name]
    return "\n\n".join((f"### {own[0].text}", f"Rule: {own[0].rule}", "\n".join(map(line_of, own))))


def line_of(sentence: Sentence) -> str:
    """Return a line with the finding for one network and its numbers."""
    held = f" ({sentence.held} of {sentence.conditions} conditions)" if sentence.conditions else ""
    numbers = sentence_case(sentence.numbers)
    return f"- {display_name(sentence.network)}: **{sentence.finding}**{held}. {numbers}."


def main() -> int:
    """Write the page, or check it; return the exit status."""
    folders = [Path(argument) for argument in sys.argv[1:] if argument != "--write"]
    folder = folders[0] if folders else KEPT
    return write_or_check(PAGE, page(folder), folder, sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
