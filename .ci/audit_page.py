"""The page of the audit: `docs/audit.md`, made from what is kept in `results/paper`.

python .ci/audit_page.py --write    # make the page
python .ci/audit_page.py            # see whether it is what the study says

Another folder with the same study can be named after these.
"""

from __future__ import annotations

import sys
from pathlib import Path

from pages import write_or_check

import nearzero as nz
from nearzero.paper.audit.values import Audit, Sentence, sentence_case
from nearzero.report.audit import fault_tables, levels_table
from nearzero.report.render import to_markdown
from nearzero.report.results import display_name

KEPT, PAGE, WORDS = Path("results/paper"), Path("docs/audit.md"), Path("docs/audit_words.md")


def page(folder: Path) -> str:
    """The whole page: words from a file of their own, numbers from the study."""
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
                to_markdown(levels_table(audit)).strip(),
            )
        )
        + "\n"
    )


def overview(audit: Audit) -> str:
    """A row for each sentence, a column for each network."""
    networks = list(dict.fromkeys(each.network for each in audit.sentences))
    lines = [["sentence", *map(display_name, networks)], ["---"] * (len(networks) + 1)]
    for name in audit.names:
        own = {each.network: each for each in audit.sentences if each.name == name}
        lines.append([next(iter(own.values())).text, *(own[network].finding for network in networks)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def in_full(audit: Audit, name: str) -> str:
    """A sentence with its rule and the numbers of each network."""
    own = [each for each in audit.sentences if each.name == name]
    return "\n\n".join((f"### {own[0].text}", f"Rule: {own[0].rule}", "\n".join(map(line_of, own))))


def line_of(sentence: Sentence) -> str:
    """What is left of it for one network."""
    held = f" ({sentence.held} of {sentence.conditions} conditions)" if sentence.conditions else ""
    numbers = sentence_case(sentence.numbers)
    return f"- {display_name(sentence.network)}: **{sentence.finding}**{held}. {numbers}."


def main() -> int:
    """Write the page, or say whether it's up to date."""
    folders = [Path(each) for each in sys.argv[1:] if each != "--write"]
    folder = folders[0] if folders else KEPT
    return write_or_check(PAGE, page(folder), folder, sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
