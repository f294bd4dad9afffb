"""The tables of the cluster."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.cluster.cells import KINDS
from benchmarks.economy.cells import Results

DISTURBED = ("driver", "worker", "node", "disk", "disk-stays", "storage", "storage-stays")
Line = Mapping[str, Any]


def report(results: Results) -> str:
    """Return the tables as Markdown; the latest line of each cell counts, whether it went well or not."""
    latest = {line["key"]: line for line in results.lines()}
    lines = list(latest.values())
    return "\n".join(
        [*_disturbed(lines), "", *_spaced(lines), "", *_speedup(lines), "", *_overhead(lines), "", *_machines(lines)]
    )


def _disturbed(lines: Sequence[Line]) -> list[str]:
    usual = [line for line in lines if line["kind"] == "undisturbed" and not line["code"]]
    if not usual:
        return ["No undisturbed fit was measured."]
    cpu, wall = (statistics.median(line[n] for line in usual) for n in ("cpu", "wall"))
    winners = {str(line["winner"]) for line in usual}
    found = [
        f"{len(usual)} undisturbed fits: median {wall:.0f} s, {cpu:.0f} CPU s; {len(winners)} different winner(s).",
        "",
        "| disturbed | cells | ended with a model | same winner | CPU / undisturbed, median (most) | jobs run twice | "
        "failed trials | orphans | files left |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for kind in DISTURBED:
        own = [line for line in lines if line["kind"] == kind]
        hit = [line for line in own if line["moment"] is not None]
        if not hit:
            continue
        ratios = [line["cpu"] / cpu for line in hit]
        same = sum(line["winner"] is not None and str(line["winner"]) in winners for line in hit)
        row = [
            f"{kind}: {KINDS[kind]}",
            str(len(hit)) + (f" (and {len(own) - len(hit)} too late)" if len(own) > len(hit) else ""),
            str(sum(not line["code"] for line in hit)),
            str(same),
            f"{statistics.median(ratios):.2f} ({max(ratios):.2f})",
            str(sum(line.get("again", 0) for line in hit)),
            str(sum(len(line.get("failed", ())) for line in hit)),
            str(sum(line["orphans"] for line in hit)),
            str(sum(len(line["left"]) for line in hit)),
        ]
        found.append(f"| {' | '.join(row)} |")
    return found


def _spaced(lines: Sequence[Line]) -> list[str]:
    usual = [line for line in lines if line["kind"] == "undisturbed" and not line["code"]]
    winners = {_plain(line) for line in usual}
    found = []
    for kind in ("spaces", "client"):
        own = [line for line in lines if line["kind"] == kind]
        same = sum(_plain(line) in winners for line in own)
        left = sum(line["orphans"] + len(line["left"]) for line in own)
        walls = ", ".join(f"{line['wall']:.0f}" for line in own)
        found += [
            f"{kind} ({KINDS[kind]}): {len(own)} fits in {walls} s, {sum(not line['code'] for line in own)} ended with "
            f"a model, {same} with the winner of an undisturbed fit; {left} orphans and files left."
        ] * bool(own)
    return found


def _plain(line: Line) -> str:
    """Return a winner without its arithmetic, which each machine measures for itself."""
    id, recipe = line["winner"] or ("", {})
    return str([id, {n: v for n, v in recipe.items() if n != "dtype"}])


def _speedup(lines: Sequence[Line]) -> list[str]:
    by = {(line["kind"], line["number"]): line for line in lines if line["kind"] in ("one", "two") and not line["code"]}
    pairs = [(by["one", n], by["two", n]) for n in range(100) if {("one", n), ("two", n)} <= by.keys()]
    if not pairs:
        return ["The speedup was not measured."]
    ratios = [one["wall"] / two["wall"] for one, two in pairs]
    each = ", ".join(
        f"{one['wall']:.0f} / {two['wall']:.0f} s = {r:.2f}" for (one, two), r in zip(pairs, ratios, strict=True)
    )
    same = sum(one["winner"] == two["winner"] for one, two in pairs)
    return [
        f"One worker / two, {pairs[0][0]['trials']} trials: median {statistics.median(ratios):.2f} of {len(pairs)} "
        f"pairs ({each}); the same winner in {same}; load before each: "
        f"{', '.join(str(line['load']) for pair in pairs for line in pair)}."
    ]


def _overhead(lines: Sequence[Line]) -> list[str]:
    return [
        f"{line['trials']} trivial trials, {line['workers']} workers: {line['each']:.3f} s each, after the first 8 "
        f"({line['first']:.1f} s, in which Ray and the workers start); load {line['load']}."
        for line in lines
        if line["kind"] == "overhead" and not line["code"]
    ]


def _machines(lines: Sequence[Line]) -> list[str]:
    return [f"Machine: {m}." for m in sorted({line["machine"] for line in lines})]
