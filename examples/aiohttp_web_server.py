"""A web server that gives tasks to the services of start_agent_service.py. WATCHBILL_REDIS_URL says where the store is
(default: localhost:6379), PORT which port it listens on.

    curl -X POST localhost:8000/tasks -d '{"agent": "Echo", "prompt": "Hello"}'
    curl localhost:8000/tasks/TASK_ID
"""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable

from aiohttp import web

from watchbill.errors import NotFound, RetryLater
from watchbill.services import AgentServiceClient, AgentTask

client = AgentServiceClient()
EXAMPLE = '{"agent": "Echo", "prompt": "Hello"}'
STATUS = {NotFound: 404, RetryLater: 503, ValueError: 400}
"""The HTTP status for each kind of error; all that is wrong with a request is a ValueError."""


@web.middleware
async def say_errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Answer with what is wrong, and how to mend it."""
    try:
        return await handler(request)
    except tuple(STATUS) as error:
        status = next(status for kind, status in STATUS.items() if isinstance(error, kind))
        return web.json_response({"error": str(error)}, status=status)


def task_of(body: bytes) -> AgentTask:
    """The task that a request asks for. Raises ValueError, which names the field and the fix."""
    try:
        data = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the body is no JSON ({error}). Send an object, as in {EXAMPLE}") from None
    if not isinstance(data, dict):
        raise ValueError(f"the body is no object. Send one, as in {EXAMPLE}")
    for field in ("agent", "prompt"):
        if not isinstance(data.get(field), str):
            raise ValueError(f"{field}: it is missing, or no text. Give text, as in {EXAMPLE}")
    return AgentTask(agent_name=data["agent"], prompt=data["prompt"])


async def handle_async_task(request: web.Request) -> web.Response:
    """Submit an agent task and return immediately."""
    task_id = await client.submit_task(task_of(await request.read()))
    return web.json_response({"task_id": task_id, "status": "queued"})


async def handle_result(request: web.Request) -> web.Response:
    """Wait a little for the result of a task."""
    task_id = request.match_info["task_id"]
    status = await client.task_status(task_id)
    result = await client.get_result(task_id, timeout=10)
    if result is None:
        return web.json_response({"task_id": task_id, "status": status}, status=202)
    return web.Response(text=result.model_dump_json(), content_type="application/json")


async def close(_: web.Application) -> None:
    await client.disconnect()


def main() -> None:
    app = web.Application(middlewares=[say_errors])
    app.router.add_post("/tasks", handle_async_task)
    app.router.add_get("/tasks/{task_id}", handle_result)
    app.on_cleanup.append(close)
    web.run_app(app, host="127.0.0.1", port=int(os.environ.get("PORT", "8000")))


if __name__ == "__main__":
    main()
