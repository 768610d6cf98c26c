"""The batch APIs of a model that answers by script: OpenAI's, with its files, and Anthropic's."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from aiohttp import web

from watchbill.testing.fake_answers import ANTHROPIC, Answer, ErrorAnswer, Expired, error

_ERRORS: Final = {400: "invalid_request_error", 429: "rate_limit_error"}
_OVER: Final = ("ended", "cancelled")

Respond = Callable[[str, dict[str, Any], Mapping[str, str], str], Awaitable[tuple[Answer, dict[str, Any]]]]
"""(API, body of a request, headers, id of its batch) → the answer by script, and its body."""


@dataclass(slots=True)
class FakeBatch:
    """A batch that was sent."""

    id: str
    api: str
    requests: dict[str, dict[str, Any]]
    """Bodies, by custom_id."""
    file: str = ""
    """OpenAI's input file."""
    state: str = "in_progress"
    """`in_progress`, `ended` or `cancelled`."""
    created: float = field(default_factory=time.time)  # noqa: TID251 - a provider has a clock of its own
    answers: dict[str, tuple[Answer, dict[str, Any]]] = field(default_factory=dict)


class FakeBatches:
    """The batches of a `FakeModel`.

    A batch ends when it is looked at, unless `open` is true. `step` is awaited with the name of each step: `file`,
    `create` (nothing is made yet), `created` (its answer is on its way), `status`, `results`, `cancel`; what it raises
    as an HTTP error of aiohttp is the answer.
    """

    def __init__(self, respond: Respond) -> None:
        self.sent: list[FakeBatch] = []
        self.open = False
        self.step: Callable[[str], Awaitable[None]] | None = None
        self._respond = respond
        self._files: dict[str, str] = {}
        self._ids = itertools.count(1)

    def add_routes(self, router: web.UrlDispatcher) -> None:
        router.add_post("/v1/files", self._add_file)
        router.add_get("/v1/files/{id}/content", self._file)
        router.add_delete("/v1/files/{id}", self._delete_file)
        for path, create in (("batches", self._create_openai), ("messages/batches", self._create_anthropic)):
            router.add_post(f"/v1/{path}", create)
            router.add_get(f"/v1/{path}", self._list)
            router.add_get(f"/v1/{path}/{{id}}", self._status)
            router.add_post(f"/v1/{path}/{{id}}/cancel", self._cancel)
        router.add_get("/v1/messages/batches/{id}/results", self._results)

    async def _reached(self, step: str) -> None:
        if self.step is not None:
            await self.step(step)

    # ------------------------------------------------------------ files

    async def _add_file(self, received: web.Request) -> web.Response:
        await self._reached("file")
        form = await received.post()
        content: Any = form["file"]
        return web.json_response(self._kept(content.file.read().decode()))

    def _kept(self, text: str) -> dict[str, Any]:
        name = f"file-{next(self._ids)}"
        self._files[name] = text
        about = {"object": "file", "bytes": len(text), "created_at": 0, "filename": "f", "purpose": "batch"}
        return {"id": name, "status": "processed", **about}

    async def _file(self, received: web.Request) -> web.Response:
        if self._files.get(received.match_info["id"]) is None:
            return web.json_response({"error": {"message": "no such file"}}, status=404)
        await self._reached("results")
        body = self._files[received.match_info["id"]].encode()
        return web.Response(body=body, content_type="application/octet-stream")

    async def _delete_file(self, received: web.Request) -> web.Response:
        self._files.pop(received.match_info["id"], None)
        return web.json_response({"id": received.match_info["id"], "object": "file", "deleted": True})

    # ------------------------------------------------------------ batches

    async def _create_openai(self, received: web.Request) -> web.Response:
        body = await received.json()
        lines = [json.loads(line) for line in self._files[body["input_file_id"]].splitlines()]
        requests = {line["custom_id"]: line["body"] for line in lines}
        api = "responses" if body["endpoint"].endswith("responses") else "chat"
        return await self._created(received, api, requests, body["input_file_id"])

    async def _create_anthropic(self, received: web.Request) -> web.Response:
        lines = (await received.json())["requests"]
        return await self._created(received, ANTHROPIC, {line["custom_id"]: line["params"] for line in lines})

    async def _created(
        self, received: web.Request, api: str, requests: dict[str, dict[str, Any]], file: str = ""
    ) -> web.Response:
        await self._reached("create")
        batch = FakeBatch(f"batch_{next(self._ids)}", api, requests, file)
        self.sent.append(batch)
        await self._reached("created")
        return web.json_response(self._told(batch, received))

    async def _list(self, received: web.Request) -> web.Response:
        is_anthropic = "messages" in received.path
        found = [b for b in reversed(self.sent) if (b.api == ANTHROPIC) == is_anthropic]
        for batch in found:
            await self._advance(batch, received)
        data = [self._told(batch, received) for batch in found]
        return web.json_response({"object": "list", "data": data, "has_more": False, "first_id": None, "last_id": None})

    def _find(self, received: web.Request) -> FakeBatch:
        found = next((batch for batch in self.sent if batch.id == received.match_info["id"]), None)
        if found is None:
            text = json.dumps({"error": {"message": "no such batch"}})
            raise web.HTTPNotFound(text=text, content_type="application/json")
        return found

    async def _status(self, received: web.Request) -> web.Response:
        batch = self._find(received)
        await self._reached("status")
        await self._advance(batch, received)
        return web.json_response(self._told(batch, received))

    async def _cancel(self, received: web.Request) -> web.Response:
        batch = self._find(received)
        await self._reached("cancel")
        if batch.state == "in_progress":
            batch.state = "cancelled"
        return web.json_response(self._told(batch, received))

    async def _advance(self, batch: FakeBatch, received: web.Request) -> None:
        if self.open or batch.state != "in_progress":
            return
        for custom_id, body in batch.requests.items():
            batch.answers[custom_id] = await self._respond(batch.api, body, dict(received.headers), batch.id)
        batch.state = "ended"

    async def _results(self, received: web.Request) -> web.Response:
        batch = self._find(received)
        await self._reached("results")
        lines = [json.dumps({"custom_id": one, "result": _anthropic_result(batch, one)}) for one in batch.requests]
        return web.Response(text="\n".join(lines), content_type="application/x-jsonl")

    def _told(self, batch: FakeBatch, received: web.Request) -> dict[str, Any]:
        if batch.api == ANTHROPIC:
            return _anthropic_told(batch, f"{received.scheme}://{received.host}")
        status = {"ended": "completed"}.get(batch.state, batch.state)
        lines = [(_openai_line(batch, one), answer) for one, (answer, _) in batch.answers.items()]
        if any(isinstance(answer, Expired) for _, answer in lines):
            status = "expired"
        files = {}
        for name, failed in (("output_file_id", False), ("error_file_id", True)):
            chosen = [line for line, answer in lines if isinstance(answer, ErrorAnswer | Expired) == failed]
            if chosen:
                files[name] = self._kept("\n".join(map(json.dumps, chosen)))["id"]
        return {
            "id": batch.id,
            "object": "batch",
            "endpoint": f"/v1/{batch.api}",
            "completion_window": "24h",
            "input_file_id": batch.file,
            "created_at": int(batch.created),
            "status": status,
            "request_counts": {"total": len(batch.requests), "completed": 0, "failed": 0},
            **files,
        }


def _openai_line(batch: FakeBatch, custom_id: str) -> dict[str, Any]:
    answer, body = batch.answers[custom_id]
    line: dict[str, Any] = {"id": f"r-{custom_id}", "custom_id": custom_id, "response": None, "error": None}
    if isinstance(answer, Expired):
        return {**line, "error": {"code": "batch_expired", "message": "it was not done in time"}}
    if isinstance(answer, ErrorAnswer):
        return {**line, "response": {"status_code": answer.status, "body": error(answer, batch.api)}}
    return {**line, "response": {"status_code": 200, "body": body}}


def _anthropic_told(batch: FakeBatch, url: str) -> dict[str, Any]:
    ends = batch.state in _OVER
    results = [_anthropic_result(batch, one)["type"] for one in batch.requests] if ends else []
    counts = {kind: results.count(kind) for kind in ("succeeded", "errored", "canceled", "expired")}
    return {
        "id": batch.id,
        "type": "message_batch",
        "processing_status": "ended" if ends else "in_progress",
        "request_counts": {**counts, "processing": 0 if ends else len(batch.requests)},
        "created_at": datetime.fromtimestamp(batch.created, UTC).isoformat(),
        "expires_at": datetime.fromtimestamp(batch.created + 86_400, UTC).isoformat(),
        "ended_at": None,
        "archived_at": None,
        "cancel_initiated_at": None,
        "results_url": f"{url}/v1/messages/batches/{batch.id}/results" if ends else None,
    }


def _anthropic_result(batch: FakeBatch, custom_id: str) -> dict[str, Any]:
    if custom_id not in batch.answers:
        return {"type": "canceled"}
    answer, body = batch.answers[custom_id]
    if isinstance(answer, Expired):
        return {"type": "expired"}
    if isinstance(answer, ErrorAnswer):
        told = {"type": _ERRORS.get(answer.status, "api_error"), "message": answer.message}
        return {"type": "errored", "error": {"type": "error", "error": told, "request_id": None}}
    return {"type": "succeeded", "message": body}
