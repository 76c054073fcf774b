"""The tables of docs/reliability.md, made of the results file alone."""

from collections.abc import Sequence
from typing import Any

from experiments.results import Results
from experiments.tables import markdown

Rows = list[dict[str, Any]]
MISSING = "not run yet"


def all_tables(results: Results) -> str:
    """Return all tables as Markdown."""
    parts = {
        "Killed trainings": kill_table(results.find(what="kill")),
        "Fuzzed readers": fuzz_table(results.find(what="fuzz")),
        "Hostile files": hostile_table(_newest(results.find(what="hostile"), "file")),
        "Threads": thread_table(results.find(what="threads")),
        "Full and read-only disks": disk_table(_newest(results.find(what="disk"), "writer", "way", "share")),
    }
    return "\n\n".join(f"**{title}**\n\n{text}" for title, text in parts.items())


def kill_table(rows: Rows) -> str:
    """Return kills by number of ranks."""
    if not rows:
        return MISSING
    lines = []
    for name, chosen in [
        *((f"{ranks}", [row for row in rows if row["ranks"] == ranks]) for ranks in (1, 2)),
        ("all", rows),
    ]:
        sums = [sum(row[key] for row in chosen) for key in ("kills", "inside", "leftovers", "starts")]
        lines.append([name, len(chosen), *sums, sum(len(row["faults"]) for row in chosen)])
    header = ["ranks", "chains", "kills", "inside a save", "with a temporary file left", "starts", "faults"]
    return f"{markdown(header, lines)}\n\n{_source(rows)}"


def fuzz_table(rows: Rows) -> str:
    """Return what each reader did."""
    if not rows:
        return MISSING
    names = dict.fromkeys(row["reader"] for row in rows)
    lines = [_fuzz_line(name, [row for row in rows if row["reader"] == name]) for name in names]
    header = ["reader", "inputs", "read", "refused", "faults", "most memory, MB"]
    return f"{markdown(header, [*lines, _fuzz_line('all', rows)])}\n\n{_source(rows)}"


def _fuzz_line(name: str, rows: Rows) -> list[Any]:
    faults = sum(fault["number"] for row in rows for fault in row["faults"])
    sums = [sum(row[key] for row in rows) for key in ("inputs", "read", "refused")]
    return [name, *(f"{number:,}" for number in sums), faults, max(row["peak_megabytes"] for row in rows)]


def hostile_table(rows: Rows) -> str:
    """Return what came of each file."""
    if not rows:
        return MISSING
    faults = sum(row["is_fault"] for row in rows)
    lines = [[row["file"], row["outcome"].replace("|", "\\|"), row["peak_megabytes"]] for row in rows]
    head = f"{len(rows)} files, {faults} faults; no code ran in {sum('CODE' not in row['outcome'] for row in rows)}."
    return f"{head}\n\n{markdown(['file', 'outcome', 'most memory, MB'], lines)}\n\n{_source(rows)}"


def thread_table(rows: Rows) -> str:
    """Return how many answers differed."""
    if not rows:
        return MISSING
    answers, faults = sum(row["answers"] for row in rows), sum(len(row["faults"]) for row in rows)
    line = [f"{answers:,}", rows[0]["threads"], faults]
    return f"{markdown(['answers', 'threads', 'that differ from one thread'], [line])}\n\n{_source(rows)}"


def disk_table(rows: Rows) -> str:
    """Return what each writer did, over the shares of room."""
    if not rows:
        return MISSING
    names = dict.fromkeys((row["writer"], row["way"]) for row in rows)
    lines = []
    for writer, way in names:
        chosen = [row for row in rows if (row["writer"], row["way"]) == (writer, way)]
        outcomes = dict.fromkeys(row["outcome"] for row in chosen)
        lines.append([writer, way, len(chosen), sum(row["is_fault"] for row in chosen), "; ".join(outcomes)])
    return f"{markdown(['what is written', 'where', 'tries', 'faults', 'outcomes'], lines)}\n\n{_source(rows)}"


def count_faults(rows: Sequence[dict[str, Any]]) -> int:
    """Return how many faults rows hold, of whatever kind."""
    return sum(bool(row.get("is_fault")) + len(row.get("faults", ())) for row in rows)


def _newest(rows: Rows, *keys: str) -> Rows:
    return list({tuple(row[key] for key in keys): row for row in rows}.values())


def _source(rows: Rows) -> str:
    commits = ", ".join(dict.fromkeys(row["commit"] for row in rows))
    return f"Commit {commits}; {', '.join(dict.fromkeys(row['machine'] for row in rows))}."
