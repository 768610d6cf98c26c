"""A worker's process ends as Python promises, and takes no more time for it."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from test_worker_first_instant import environment
from workshop import Make

from watchbill.records import AgentDefinition

AGENT = """
import atexit, os, threading

class Part:
    def __del__(self, write=os.write):
        write(1, b"taken apart;")

PART = Part()
FILES = [open("TEXT", "w"), open("BYTES", "wb")]
atexit.register(os.write, 1, b"registered;")

def later():
    threading.main_thread().join()
    os.write(1, b"thread;")

class Agent:
    async def run(self, context):
        print("printed;", end="")
        FILES[0].write("text")
        FILES[1].write(b"bytes")
        threading.Thread(target=later).start()
        return "done"
"""


async def test_it_ends_with_all_threads_and_handlers_but_takes_no_module_apart(make_crew: Make, tmp_path: Path) -> None:
    written = [tmp_path / "text", tmp_path / "bytes"]
    (tmp_path / "parts.py").write_text(AGENT.replace("TEXT", str(written[0])).replace("BYTES", str(written[1])))
    crew = await make_crew([AgentDefinition(agent_id="a", agent_class="parts:Agent")])
    given = {"WATCHBILL_REDIS_URL": crew.url, "WATCHBILL_CREW": crew.name, "WATCHBILL_FOLDERS": str(tmp_path)}
    command = [sys.executable, "-P", "-m", "watchbill.worker"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment(**given)) as process:
        try:
            await crew.submit("t", "a")
            assert (await crew.results(["t"], 60))[0].output == "done"
            process.send_signal(signal.SIGTERM)
            said, _ = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 0
    assert sorted(said.decode().split(";")) == ["", "printed", "registered", "thread"]
    assert [file.read_text() for file in written] == ["text", "bytes"]
