"""``edge models``: what can be exported."""

from __future__ import annotations

from dataclasses import dataclass

from edge.cli.options import JsonFlag


@dataclass(frozen=True)
class ModelRow:
    """A family as ``--json`` prints it."""

    name: str
    summary: str
    paper: str
    variants: tuple[str, ...]
    demo: bool  # a trained checkpoint ships with edge
    tasks: tuple[str, ...]


def _list(names: tuple[str, ...]) -> str:
    return ", ".join(names) or "-"


def models(json: JsonFlag = False) -> None:
    """List the model families, their variants and tasks.

    \b
    Examples:
      edge models
      edge models --json
    """
    from edge.cli.output import print_json, print_table
    from edge.families.base import family_names, get_family

    rows = []
    for name in family_names():
        family = get_family(name)
        rows.append(
            ModelRow(
                name=name,
                summary=family.summary,
                paper=family.paper,
                variants=tuple(f"{name}-{suffix}" for suffix in family.variants),
                demo=family.has_demo,
                tasks=tuple(sorted(family.tasks())),
            )
        )
    if json:
        print_json(rows)
        return
    print_table(
        ("model", "what it is", "variants", "tasks", "demo"),
        [(row.name, row.summary, _list(row.variants), _list(row.tasks), "yes" if row.demo else "no") for row in rows],
        wrap=("what it is", "tasks", "variants"),
    )
    print("\nYour own: `edge export package.module:factory --target cpu`, where factory() returns an nn.Module")
    print("that says its example_inputs.")
