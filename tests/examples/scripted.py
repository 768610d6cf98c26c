"""A model that plays the agents of the examples, each known by the first words of its systemPrompt.

It imports nothing of the tests, and can be started by itself (`python scripted.py`), as the tests on a cluster do in
a pod. It answers from what it is asked, so an answer tells whether the data came to where they belong.
"""

from __future__ import annotations

import asyncio
import json
import re

from watchbill.testing import Answer, ErrorAnswer, FakeModel, Request, ToolCall

COST = "What the cron host costs"
"""The note that the editor of research-and-write misses in the first draft."""


def answer(request: Request) -> Answer:
    """The part's answer; HTTP 400 for an agent that has no part here."""
    for beginning, play in _PARTS.items():
        if request.instructions.startswith(beginning):
            return play(request)
    return ErrorAnswer(400, f"nobody plays {request.instructions[:60]!r}")


def between(request: Request, start: str, end: str = "\n\n") -> str:
    """The part of the prompt behind `start`, up to `end`."""
    return request.prompt.partition(start)[2].partition(end)[0].strip()


def final(**fields: object) -> ToolCall:
    """An answer that fits an outputSchema."""
    return ToolCall("final_result", fields)


# ---- research-and-write


def _plan(request: Request) -> Answer:
    remarks = between(request, "remarks on it:")
    return final(questions=["what the cron host costs"] if remarks else ["jobs that run at night", "incident invoices"])


def _research(request: Request) -> Answer:
    if not request.tool_results:
        return ToolCall("search", {"words": request.prompt})
    return f"I found it [{json.loads(request.tool_results[0])[0]['title']}]."


def _write(request: Request) -> Answer:
    found = json.loads(between(request, "New findings, as JSON:"))
    said = "\n".join(one if isinstance(one, str) else f"Not known: {one['error']['agent']}" for one in found)
    return f"{between(request, 'Your last draft:')}\n{said}".strip()


def _edit(request: Request) -> Answer:
    content = COST in request.prompt
    return final(approved=content, remarks="" if content else "Say what it costs.")


# ---- contracts


def _duties(request: Request) -> Answer:
    name = between(request, "The contract ", ":")
    pays = re.findall(r"^(\d+)\..*(?:pays|rent is).*$", request.prompt, re.MULTILINE)
    return final(contract=name, duties=[{"what": "pay", "by": "see there", "clause": clause} for clause in pays])


def _risks(request: Request) -> Answer:
    name = between(request, "The contract ", ":")
    found = re.findall(r"^(\d+)\. (.*(?:penalty|at any time|not limited).*)$", request.prompt, re.MULTILINE)
    return final(contract=name, risks=[{"clause": n, "quote": text, "why": "it costs"} for n, text in found])


def _sum_up(request: Request) -> Answer:
    duties, risks = (json.loads(between(request, f"{what}:")) for what in ("Duties", "Risks"))
    unread = [n for n, one in enumerate(duties, 1) if "error" in one]
    read = sorted(one["contract"] for one in duties if "error" not in one)
    worst = sorted(one["contract"] for one in risks if one.get("risks"))
    return f"Not read: {unread}. Duties: {', '.join(read)}. Risks: {', '.join(worst)}."


# ---- nightly-report


def _report(request: Request) -> Answer:
    orders, tickets = (json.loads(between(request, f"{what}:")) for what in ("Orders", "Tickets"))
    asked = tickets["figures"]["about_payment"]
    return (
        f"On {orders['day']} there were {orders['figures']['orders']['value']:g} orders, and {asked['value']:g} "
        f"tickets about payment ({asked['change_percent']:+g}%)."
    )


# ---- support-desk


def _desk(request: Request) -> Answer:
    orders, done = re.findall(r"A-\d+", request.prompt), request.tool_results
    if not done:
        return [ToolCall("delegate", {"member": "clerk", "work": f"Look up {number}."}) for number in orders]
    if len(done) == len(orders):
        return ToolCall("delegate", {"member": "writer", "work": "\n".join([request.prompt, *done])})
    return done[-1]


def _look_up(request: Request) -> Answer:
    number = re.findall(r"A-\d+", request.prompt)[0]
    if not request.tool_results:
        return ToolCall("order", {"number": number})
    found = json.loads(request.tool_results[0])
    return (
        f"{number}: {', '.join(found['items'])}, sent {found['sent'] or 'not yet'}, promised for {found['promised']}."
    )


def _answer(request: Request) -> Answer:
    facts = "\n".join(dict.fromkeys(re.findall(r"^A-\d+: .*$", request.prompt, re.MULTILINE)))
    promise = "" if "was rejected" in request.prompt else "\nAll will be with you tomorrow."
    return f"Dear customer,\n{facts}{promise}"


def _approve(request: Request) -> Answer:
    if "tomorrow" in between(request, "What came before:", "\n\n\n"):
        return final(approved=False, reasons="No order says tomorrow.")
    return final(approved=True)


# ---- code-review and log-triage, with --model


def _review(request: Request) -> Answer:
    if "was rejected" not in request.prompt and "\n3+ PASSWORD" in request.prompt:
        return "There is a password."  # which names no line, so the editor rejects it
    return (
        "\n".join(
            f"{number}: it is no good idea [`{text.strip()}`]"
            for number, text in re.findall(r"^(\d+)\+ (.*(?:PASSWORD|items=\[\]).*)$", request.prompt, re.MULTILINE)
        )
        or "none"
    )


def _triage(request: Request) -> Answer:
    found = json.loads(between(request, "The findings:", "\n\n\n"))
    kinds = [kind["kind"] for kind in found["incidents"][0]["kinds"]]
    return f"Hypothesis: {kinds[0]}, since {found['incidents'][0]['onset']}."


_PARTS = {
    "You plan the research": _plan,
    "You look up one question": _research,
    "You write for colleagues": _write,
    "You edit a one-page answer": _edit,
    "You read one contract for the party that asks": _duties,
    "You read one contract for the party that signed": _risks,
    "You answer a question about many contracts": _sum_up,
    "You write the daily report": _report,
    "You run the support desk": _desk,
    "You look up orders of a shop": _look_up,
    "You write to customers": _answer,
    "You approve of work for a support desk": _approve,
    "You review one file of a change": _review,
    "You are on call": _triage,
}


async def _serve() -> None:
    async with FakeModel(answer, host="0.0.0.0", port=8080):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve())
