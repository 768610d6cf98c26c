"""Agent `report`: writes the answer, in Markdown, from what `rank` found. Says only what the counts say.

A log shows in which order things went wrong, not why: the headline is a hypothesis, and is called one.
"""

from __future__ import annotations

from typing import Any

from log_triage_kinds import SERVER_ERROR, advice

Json = dict[str, Any]


# ---- words


def clock(stamp: str, log: Json) -> str:
    """The time of day, with the day only where the log spans more than one."""
    same_day = log["first"][:10] == log["last"][:10]
    return stamp[11:] if same_day else stamp[5:]


def code(text: str, width: int = 150) -> str:
    """A piece of the log as inline code that breaks neither the line nor a table."""
    text = " ".join(text.replace("`", "'").replace("|", "¦").split())
    return f"`{text if len(text) <= width else text[: width - 1] + '…'}`"


def span(seconds: float) -> str:
    if seconds < 1:
        return "under a second"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [(hours, "h"), (minutes, "min"), (rest if not hours else 0, "s")]
    return " ".join(f"{n} {unit}" for n, unit in parts if n)


def many(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def share(part: int, whole: int) -> str:
    percent = 100 * part / whole if whole else 0.0
    return "<0.1 %" if 0 < percent < 0.1 else f"{percent:.1f} %"


def named(kind: Json) -> str:
    return str(kind["kind"]) if kind["named"] else code(kind["kind"].partition(": ")[2] or kind["kind"], 80)


# ---- one incident


def cause_of(incident: Json) -> Json | None:
    """The kind of failure that came first; a 5xx is how a failure shows, so only if there is nothing else."""
    kinds: list[Json] = incident["kinds"]
    return next((k for k in kinds if k["kind"] != SERVER_ERROR), kinds[0] if kinds else None)


def hypothesis(incident: Json, log: Json) -> list[str]:
    """The headline and its evidence."""
    cause = cause_of(incident)
    if cause is None:
        onset = clock(incident["onset"], log)
        return [f"**Failures rose far above the usual at {onset}**, all of kinds that were there before."]
    where = f" in `{cause['first_component']}`" if cause["first_component"] else ""
    seen = many(cause["count"], "record") + " in this incident"
    if cause["components"]:
        seen += f" from {_listed(cause['components'])}"
    lines = [
        f"**{_title(cause)}: {named(cause)}.** It was the first to go wrong: {clock(cause['first'], log)}{where}, "
        f"{code(cause['first_sample'], 200)}. {seen}, {cause['before'] or 'none'} before it."
    ]
    if before := incident["new_before"]:
        told = "; ".join(f"{clock(n['at'], log)} {_by(n)}{code(n['said'], 90)}" for n in before[:3])
        lines.append(f"**What changed just before:** {told}. Nothing like it was in the log until then.")
    if ended := incident["new_at_end"]:
        told = "; ".join(f"{clock(n['at'], log)} {_by(n)}{code(n['said'], 90)}" for n in ended[:3])
        lines.append(f"**What came with its end** ({clock(incident['end'], log)}): {told}.")
    if later := [k for k in incident["kinds"] if k is not cause and k["named"] and k["kind"] != SERVER_ERROR]:
        told = ", ".join(f"{named(k)} (+{span(k['seconds_after_onset'])}, {k['count']:,}×)" for k in later)
        lines.append(
            f"**Later:** {told}. They may follow from it, or be a second problem: the log shows only the order."
        )
    return lines


def _title(cause: Json) -> str:
    """Only a kind that we know to cause others is called a cause."""
    return "Most likely cause" if advice(cause["kind"]) else "First sign"


def _by(entry: Json) -> str:
    return f"`{entry['component']}` " if entry["component"] else ""


def _listed(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def timeline(incident: Json, log: Json) -> list[str]:
    """Onset, first of each kind, peak and recovery, in order of time."""
    events = [(n["at"], 0, f"first time: {_by(n)}{code(n['said'], 90)}") for n in incident["new_before"]]
    cause = cause_of(incident)
    for kind in incident["kinds"][:6]:
        onset = "**onset** · " if kind is cause else ""
        until = "" if kind["last"] == kind["first"] else f", until {clock(kind['last'], log)}"
        events.append((kind["first"], 1, f"{onset}first {named(kind)} ({kind['count']:,}×{until})"))
    per = log["bucket_seconds"]
    made_of = " (errors, and requests answered 5xx)" if incident["peak_of"] == "failure" else ""
    peak = f"{many(incident['peak_count'], incident['peak_of'])}{made_of} within {span(per)}"
    events.append((incident["peak"], 2, f"**peak** · {peak}"))
    if incident["ongoing"]:
        events.append((log["last"], 4, "**the log ends here**, and the incident had not"))
    else:
        events.append((incident["end"], 3, "**recovery** · the last record of the incident"))
        events += [(n["at"], 4, f"{_by(n)}{code(n['said'], 90)}") for n in incident["new_at_end"]]
    rows = [f"| {clock(at, log)} | {what} |" for at, _, what in sorted(events, key=lambda e: e[:2])]
    return ["| time | what |", "|---|---|", *rows]


def impact(incident: Json, log: Json) -> list[str]:
    """Whom it hit: requests, and what stopped happening."""
    lines = []
    asked = incident["requests"]
    if asked["during"]["answered"]:
        told = [
            f"{when} {one['failed']:,} of {one['answered']:,} ({share(one['failed'], one['answered'])})"
            for when, one in asked.items()
            if one["answered"]
        ]
        lines.append(f"Requests answered 5xx: {'; '.join(told)}.")
    lines += [
        f"{_by(less)}{code(less['template'], 80)} fell from {less['per_minute_before']:g} to "
        f"{less['per_minute_during']:g} a minute."
        for less in incident["dried_up"]
    ]
    return lines


def section(incident: Json, log: Json, title: str) -> list[str]:
    over = "not over when the log ends" if incident["ongoing"] else f"to {clock(incident['end'], log)}"
    heading = f"## {title}: {clock(incident['onset'], log)} {over} ({span(incident['seconds'])})"
    counts = f"{many(incident['errors'], 'error')} and {many(incident['warnings'], 'warning')} in this time."
    return [heading, "", " ".join([counts, *impact(incident, log)]), "", *timeline(incident, log), ""]


# ---- groups


def table(groups: list[Json], log: Json) -> list[str]:
    rows = ["| count | level | component | when | what it says |", "|--:|---|---|---|---|"]
    for g in groups:
        when = "no time" if not g["first"] else clock(g["first"], log)
        if g["first"] and g["last"] != g["first"]:
            when += f"–{clock(g['last'], log)}"
        if g["pattern"] == "surged":
            when += f", {g['in_incidents']:,} in the incident ({g['factor']:g}× the usual rate)"
        rows.append(f"| {g['count']:,} | {g['level']} | {g['component'] or '-'} | {when} | {code(g['sample'], 130)} |")
    return rows


def look_first(ranked: Json) -> list[str]:
    """What a person on call would open first, in order."""
    log, steps = ranked["log"], []
    for incident in ranked["incidents"][:2]:
        cause = cause_of(incident)
        if new := incident["new_before"]:
            at, said = clock(new[0]["at"], log), code(new[0]["said"], 90)
            steps.append(f"What {_by(new[0])}did at {at} and had not done before: {said}.")
        if cause is not None:
            hint = advice(cause["kind"]) or f"Read the records of {named(cause)} from {clock(cause['first'], log)} on."
            steps.append(f"For {named(cause)}: {hint}")
        for kind in incident["kinds"]:
            if kind is not cause and kind["named"] and (hint := advice(kind["kind"])):
                steps.append(f"For {named(kind)} (from {clock(kind['first'], log)}): {hint}")
                break
    if not ranked["incidents"]:
        for g in ranked["groups"][:3]:
            hint = advice(g["kind"])
            steps.append(f"{_by(g)}{code(g['sample'], 110)} ({g['count']:,}×)." + (f" {hint}" if hint else ""))
    bugs = [g for g in ranked["noise"] if g["level"] in ("ERROR", "CRITICAL") and g["count"] >= 3]
    steps += [
        f"Later, as a bug of its own ({g['count']:,}× all along): {_by(g)}{code(g['sample'], 110)}" for g in bugs[:2]
    ]
    return [f"{i}. {step}" for i, step in enumerate(dict.fromkeys(steps), 1)]


def asked_for(ranked: Json) -> list[str]:
    """What the question names gets a section of its own."""
    asked = ranked["asked"]
    names = [*(f"`{name}`" for name in asked["components"]), *asked["kinds"]]
    names += [*(f"{level.lower()}s" for level in asked["levels"]), *(f'"{word}"' for word in asked["words"])]
    if not names:
        return []
    heading = [f"## You asked about {', '.join(names[:6])}", ""]
    if not asked["groups"]:
        return [*heading, "Nothing at WARNING or above.", ""]
    counts = f"{many(asked['count'], 'record')} at WARNING or above, or answered 5xx:"
    return [*heading, counts, "", *table(asked["groups"][:6], ranked["log"]), ""]


# ---- the whole answer


def headline(ranked: Json) -> list[str]:
    log, incidents = ranked["log"], ranked["incidents"]
    if not log["lines"]:
        return ["**The log is empty.** There is nothing to say about it."]
    if not log["records"]:
        seen = "; ".join(code(line, 100) for line in log["unparsed_samples"])
        count = many(log["lines"], "line")
        return [f"**I can't read this log.** None of its {count} has a format that I know. It begins: {seen}"]
    if incidents:
        worst = max(incidents, key=lambda i: i["errors"] + i["requests"]["during"]["failed"] + i["warnings"])
        lines = hypothesis(worst, log)
        if len(incidents) > 1:
            when = ", ".join(clock(i["onset"], log) for i in incidents)
            began = clock(worst["onset"], log)
            lines.insert(0, f"**{len(incidents)} incidents** (from {when}). The worst began at {began}:")
        return lines
    errors = sum(log["levels"].get(level, 0) for level in ("ERROR", "CRITICAL"))
    warnings = log["levels"].get("WARNING", 0)
    counts = f"{many(log['records'], 'record')}: {many(errors, 'error')}, {many(warnings, 'warning')}"
    if log["answered_5xx"]:
        counts += f", {many(log['answered_5xx'], 'request')} answered 5xx"
    if not errors and not log["answered_5xx"]:
        return [f"**Nothing in this log says that anything broke.** {counts}."]
    if log["first"] is None:
        return [f"**There are failures, but no times**, so no telling when it began or what came first. {counts}."]
    return [
        f"**There are failures, but no burst of them.** {counts}. They are too few, or too evenly "
        "spread over the log, to tell an incident from what is usual in it."
    ]


def coverage(log: Json) -> str:
    told = f"Read {many(log['lines'], 'line')} (blank ones not counted): {many(log['records'], 'record')}"
    if log["formats"]:
        told += f" ({', '.join(f'{n:,} {name}' for name, n in sorted(log['formats'].items(), key=lambda f: -f[1]))})"
    if log["first"]:
        told += f", {log['first']} to {log['last']}".replace("1972-", "")
    told += f"; {many(log['unparsed'], 'line')} ({share(log['unparsed'], log['lines'])}) not understood"
    if log["unparsed"] and log["records"]:
        told += f", such as {code(log['unparsed_samples'][0], 80)}"
    told += "."
    if log["guessed_levels"]:
        told += f" {many(log['guessed_levels'], 'record')} had no level; it was guessed from the words."
    if log["untimed"] and log["first"]:
        told += f" {many(log['untimed'], 'record')} had no time and are in no timeline."
    return told


def report(ranked: Json) -> str:
    """The answer."""
    log, incidents = ranked["log"], ranked["incidents"]
    lines = ["# What the log says", ""]
    if ranked["question"].strip():
        lines += [f"> {' '.join(ranked['question'].split())[:300]}", ""]
    for paragraph in headline(ranked):
        lines += [paragraph, ""]
    if steps := look_first(ranked):
        lines += ["## Look at first", "", *steps, ""]
    for i, incident in enumerate(incidents, 1):
        lines += section(incident, log, "The incident" if len(incidents) == 1 else f"Incident {i}")
    lines += asked_for(ranked)
    if ranked["groups"]:
        lines += ["## What went wrong, by weight" if incidents else "## Errors and warnings, by weight", ""]
        lines += table(ranked["groups"][:8], log)
        if more := ranked["groups_left_out"] + len(ranked["groups"][8:]):
            lines.append(f"\n{many(more, 'smaller group')} left out.")
        lines.append("")
    if ranked["noise"]:
        lines += ["## Probably noise", "", "At the same rate outside the incident, or too rare to tell:", ""]
        lines += [f"- {g['count']:,}× {g['level']} {_by(g)}{code(g['sample'], 110)}" for g in ranked["noise"][:6]]
        lines.append("")
    lines += ["## How much of it was read", "", coverage(log)]
    return "\n".join(lines) + "\n"


class Report:
    """The agent. Needs what `rank` found; its prompt is for models that stand in for it."""

    def run(self, context: Any) -> str:
        return report(context.outputs["rank"])
