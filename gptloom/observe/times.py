"""Where the time of a run's steps went, process by process: gathered from its ``timing`` events, and as HTML."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from gptloom.observe.charts import Bar, bar_chart, seconds

Event = dict[str, Any]
WORK = ("data", "forward", "backward")
PHASES = (*WORK, "communication", "optimizer", "other")
"""The parts of a step, which together are all of it; ``other`` is what is in none of the rest."""
EXCHANGE = "exchange"
"""Runs beside forward and backward: on accelerators the collectives of sharded models have streams of their own."""
MOST_BARS = 32
"""Of more processes only those with the most work are drawn."""


@dataclass(frozen=True)
class Late:
    """A process that kept the others waiting: at so many looks, its own work then being ``times`` the middle one's."""

    rank: int
    host: str
    times: float
    looks: int


@dataclass(frozen=True)
class Times:
    """Seconds of one step by phase and rank, on average over ``looks`` events, and who was late.

    An attempt may have had another number of processes than the next: only events of as many as the last one count.
    """

    phases: dict[str, list[float]]
    exchange: list[float]
    """What accelerators exchange while they compute, by rank; empty where nothing does."""
    hosts: list[str]
    looks: int
    late: list[Late]

    @classmethod
    def of(cls, events: Sequence[Event]) -> Times | None:
        """None where no step was timed."""
        timed = [event for event in events if event["type"] == "timing"]
        timed = [event for event in timed if len(event["hosts"]) == len(timed[-1]["hosts"])]
        if not timed:
            return None
        hosts = timed[-1]["hosts"]
        named = {name for event in timed for name in event["phases"]}
        means = {
            name: [
                sum(event["phases"].get(name, [0.0] * len(hosts))[rank] for event in timed) / len(timed)
                for rank in range(len(hosts))
            ]
            for name in (*PHASES, EXCHANGE)
            if name in named
        }
        exchange = means.pop(EXCHANGE, [])
        return cls(means, exchange, hosts, len(timed), _late(timed, hosts))

    def total(self, rank: int) -> float:
        return sum(times[rank] for times in self.phases.values())

    def share(self, name: str) -> float:
        """Of all processes' time, in 0 to 1."""
        everything = sum(map(sum, self.phases.values()))
        return sum(self.phases[name]) / everything if everything else 0.0

    def own_work(self, rank: int) -> float:
        return sum(self.phases[name][rank] for name in WORK if name in self.phases)


def _late(timed: Sequence[Event], hosts: Sequence[str]) -> list[Late]:
    """Those that were late at more than half of the looks: once may be chance."""
    found = [late for event in timed for late in event["stragglers"]]
    looks = Counter(late["rank"] for late in found)
    return [
        Late(rank, hosts[rank], sum(late["times"] for late in found if late["rank"] == rank) / count, count)
        for rank, count in sorted(looks.items())
        if 2 * count > len(timed)
    ]


def time_section(events: Sequence[Event]) -> str:
    """A bar of phases for each process, and a sentence about each that was late; empty where no step was timed."""
    times = Times.of(events)
    if times is None:
        return ""
    seen = [name for name in times.phases if times.share(name) >= 0.005]
    keys = "".join(f'<span class="key {name}">{name} {times.share(name):.0%}</span>' for name in seen)
    ranks = sorted(sorted(range(len(times.hosts)), key=times.own_work, reverse=True)[:MOST_BARS])
    chart = bar_chart([_bar(times, rank) for rank in ranks], "seconds of a step by phase")
    about = f"One step, on average over {times.looks} looks."
    if len(times.hosts) > 1:
        about += " Communication is also the waiting for others."
    if times.exchange:
        about += f" Beside the computation, exchanges ran for up to {seconds(max(times.exchange))}."
    if len(ranks) < len(times.hosts):
        about += f" Drawn are the {len(ranks)} with the most work of their own, of {len(times.hosts)} processes."
    return "\n".join(
        [
            f'<div class="card"><p class="legend">{keys}</p>{chart}</div>',
            *(f'<p class="late">{escape(_sentence(late, times.looks))}</p>' for late in times.late),
            f'<p class="faint">{about}</p>',
        ]
    )


def _bar(times: Times, rank: int) -> Bar:
    label = f"process {rank}" if len(times.hosts) > 1 else "a step"
    label += f" on {times.hosts[rank]}" if len(set(times.hosts)) > 1 else ""
    return Bar(label, [(name, values[rank]) for name, values in times.phases.items()], seconds(times.total(rank)))


def _sentence(late: Late, looks: int) -> str:
    return (
        f"Process {late.rank} on {late.host} kept the others waiting: its own work (data, forward, backward) took "
        f"{late.times:.2f} times that of the middle process, at {late.looks} of {looks} looks."
    )
