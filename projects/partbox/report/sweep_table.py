"""Tables of a sweep: what Slurm makes of its cells, and their results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tabulate import tabulate


def status_table(statuses: Sequence[Mapping[str, Any]], style: str = "github") -> str:
    """One row a cell: state, job, starts, progress; below it the reason and the log of each that failed.

    Args:
        statuses: plain values of ``partbox.engine.slurm.status.CellStatus``.
        style: of the ``tabulate`` package.
    """
    rows = [[one[key] for key in ("name", "state", "job", "starts", "progress")] for one in statuses]
    table = tabulate(
        rows, headers=["cell", "state", "job", "starts", "progress"], tablefmt=style, disable_numparse=True
    )
    notes = []
    for one in statuses:
        if one["reason"]:
            notes.append(f"{one['name']}: {one['reason']}" + (f"\n    log: {one['log']}" if one["log"] else ""))
    return "\n".join([table, *([""] if notes else []), *notes])


def sweep_table(document: Mapping[str, Any], style: str = "github") -> str:
    """One row a configuration, perturbation and metric: mean and spread over its seeds; then what is wrong.

    Args:
        document: content of ``sweep_results.json``.
        style: of the ``tabulate`` package.
    """
    rows = []
    for row in document["summary"]:
        there, missing = len(row["by_seed"]), len(row["missing_seeds"])
        spread = row["standard_deviation"]
        value = f"{100 * row['mean']:.1f}" + (f" ± {100 * spread:.1f}" if spread is not None else "")
        seeds = f"{there} of {there + missing} (!)" if missing else str(there)
        rows.append([row["config"], row["perturbation"] or "-", row["metric"], seeds, value])
    headers = ["configuration", "perturbation", "metric", "seeds", "%"]
    table = tabulate(rows, headers=headers, tablefmt=style, disable_numparse=True)
    notes = [f"(!) {one['name']} is missing ({one['state']}): {one['reason']}" for one in document["missing"]]
    warnings = [f"{cell['name']}: {words}" for cell in document["cells"] for words in cell["results"]["warnings"]]
    notes += [f"(!) {warning}" for warning in (*document["warnings"], *warnings)]
    return "\n".join([table, *([""] if notes else []), *notes])
