"""A web server that gives tasks to the services of start_agent_service.py. WATCHBILL_REDIS_URL says where the store is
(default: localhost:6379), PORT which port it listens on.

    curl -X POST localhost:8000/tasks -d '{"agent": "Echo", "prompt": "Hello"}'
    curl localhost:8000/tasks/TASK_ID
"""

from __future__ import annotations

import os

from aiohttp import web

from watchbill.errors import InvalidInput, NotFound
from watchbill.services import AgentServiceClient, AgentTask

client = AgentServiceClient()


async def handle_async_task(request: web.Request) -> web.Response:
    """Submit an agent task and return immediately."""
    data = await request.json()
    try:
        task_id = await client.submit_task(AgentTask(agent_name=data["agent"], prompt=data["prompt"]))
    except (KeyError, InvalidInput) as error:
        return web.json_response({"error": str(error)}, status=400)
    return web.json_response({"task_id": task_id, "status": "queued"})


async def handle_result(request: web.Request) -> web.Response:
    """Wait a little for the result of a task. 404 for a task that nobody has submitted."""
    task_id = request.match_info["task_id"]
    try:
        status = await client.task_status(task_id)
    except NotFound as error:
        return web.json_response({"error": str(error)}, status=404)
    result = await client.get_result(task_id, timeout=10)
    if result is None:
        return web.json_response({"task_id": task_id, "status": status}, status=202)
    return web.Response(text=result.model_dump_json(), content_type="application/json")


async def close(_: web.Application) -> None:
    await client.disconnect()


def main() -> None:
    app = web.Application()
    app.router.add_post("/tasks", handle_async_task)
    app.router.add_get("/tasks/{task_id}", handle_result)
    app.on_cleanup.append(close)
    web.run_app(app, host="127.0.0.1", port=int(os.environ.get("PORT", "8000")))


if __name__ == "__main__":
    main()
