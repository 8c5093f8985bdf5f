"""The sections of a page that are tables: evaluations, config, versions."""

from collections.abc import Iterator, Mapping
from typing import Any

from ddpm_jax.config import Config, to_dict
from ddpm_jax.report.markup import flat, number, part, shown_value, table, text
from ddpm_jax.report.recorded import Recorded


def evaluations(found: Recorded) -> Iterator[str]:
    """A table of each record, and its protocol."""
    for name, record in reversed(found.evaluations.items()):
        rows = [x for x in record["metrics"].values() if isinstance(x, dict)]
        body = "".join(
            f"<tr><th>{text(row.get('shown', row.get('name')))}</th>"
            f"<td>{number(row.get('mean'))}</td><td>{number(row.get('spread'), 2)}"
            f"</td><td>{text(row.get('better', ''))}</td></tr>"
            for row in rows
        )
        notes = record.get("notes")
        notes = notes if isinstance(notes, list) else []
        listed = "".join(f"<li>{text(note)}</li>" for note in notes)
        parts = ("protocol", "network", "reference", "samples", "likelihood of")
        kept = {key: record[key] for key in (*parts, "versions") if key in record}
        protocol = part(record, "protocol").get("name", "not told")
        yield (
            f"<article><h3>Protocol {text(protocol)}</h3><p>{text(_measured(record))}"
            "</p>"
            '<div class="wide"><table class="numbers"><tr><th>metric</th><td>value</td>'
            f"<td>±</td><td>better</td></tr>{body}</table></div>"
            + (f'<ul class="notes">{listed}</ul>' if listed else "")
            + f"<details><summary>all of the protocol, from evaluation/{text(name)}"
            f"</summary>{table(flat(kept))}</details></article>"
        )


def _measured(record: Mapping[str, Any]) -> str:
    """Of what the figures are, in a line."""
    samples = part(record, "samples")
    seeds = samples.get("seeds")
    sets = len(seeds) if isinstance(seeds, list) else 1
    facts = [f"{samples.get('n', '?')} images" + (f" × {sets} seeds" * (sets > 1))]
    if "sampler" in samples:
        facts.append(f"{samples['sampler']}, {samples.get('steps') or 'all'} steps")
    if "trained steps" in samples:
        facts.append(f"weights after {samples['trained steps']} updates")
    if "device" in record:
        facts.append(f"on {record['device']}")
    return ", ".join(facts)


def config_table(config: Config) -> str:
    """The fields that are not as by default, and all of them to unfold."""
    ours, usual = (flat(to_dict(x)) for x in (config, Config()))
    other = {k: x for k, x in ours.items() if x != usual.get(k)}
    rows = "".join(
        f"<tr><th>{text(name)}</th><td>{text(shown_value(value))}</td>"
        f"<td>{text(shown_value(usual.get(name)))}</td></tr>"
        for name, value in other.items()
    )
    head = "<tr><th>field</th><td>this run</td><td>default</td></tr>"
    differs = (
        f'<div class="wide"><table class="fields">{head}{rows}</table></div>'
        if rows
        else "<p>All fields are as by default.</p>"
    )
    return f"{differs}<details><summary>all fields</summary>{table(ours)}</details>"


def environment_table(found: Recorded, versions: Mapping[str, Any]) -> str:
    """With what the run was trained, start by start, and the page made."""
    rows: list[tuple[str, Mapping[str, Any]]] = [
        (f"trained from step {start['step']:,}", start) for start in found.starts
    ]
    rows = rows or [("trained", {"device": "not recorded"})]
    rows.append(("this page", versions))
    body = "".join(
        f"<tr><th>{text(what)}</th><td>{text(facts.get('time', ''))}</td>"
        f"<td>{text(facts.get('device', ''))}</td>"
        f"<td>{text(_versions(facts))}</td></tr>"
        for what, facts in rows
    )
    return f'<div class="wide"><table class="fields">{body}</table></div>'


def _versions(facts: Mapping[str, Any]) -> str:
    versions = part(facts, "versions")
    return ", ".join(f"{name} {version}" for name, version in versions.items())
