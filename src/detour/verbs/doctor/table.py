"""Every rule there is, and the table of them that ``docs/doctor.md`` holds."""

from collections.abc import Sequence

from detour.verbs.doctor import adapter_rules, machine_rules, picture_rules, prompt_rules, run_rules
from detour.verbs.doctor.finding import Rule

RULES: Sequence[Rule] = (
    *picture_rules.RULES,
    *prompt_rules.RULES,
    *adapter_rules.RULES,
    *run_rules.RULES,
    *machine_rules.RULES,
)

TITLES = {
    "picture": "How pictures are drawn",
    "prompt": "Prompts",
    "adapter": "Adapters",
    "run": "Runs",
    "data": "Data",
    "machine": "Machine",
}

BEGIN, END = "<!-- rules: begin -->", "<!-- rules: end -->"
"""Marks of the part of the page that ``python -m detour.cli.reference`` writes."""


def rules_table() -> str:
    """Markdown: a table for each subject."""
    parts = []
    for subject, title in TITLES.items():
        rules = [rule for rule in RULES if rule.subject == subject]
        lines = [f"### {title}", "", "| rule | | fires on | cause | fix |", "|---|---|---|---|---|"]
        lines += [
            "| "
            + " | ".join(
                _cell(text)
                for text in (
                    f"`{rule.name}`" + (" *" if rule.sure else ""),
                    rule.severity,
                    rule.fires,
                    rule.cause,
                    rule.fix,
                )
            )
            + " |"
            for rule in rules
        ]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def with_table(page: str) -> str:
    """The page with the table of today between its marks."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{rules_table()}\n\n{END}{after}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")
