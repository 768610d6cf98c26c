"""A wall clock that is wrong, for one process: what the environment of a process must be to have it.

Where there is a C compiler, on Linux, the C library itself tells the wrong time to whomever asks in that process; else
Python's `time` and `datetime` do. The monotonic clock stays right, as it does on a machine whose clock is wrong.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

_IN_C = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>

int clock_gettime(clockid_t which, struct timespec *at) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int code = real(which, at);
    if (code == 0 && (which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE)) at->tv_sec += atol(getenv("AHEAD"));
    return code;
}

int gettimeofday(struct timeval *restrict at, void *restrict zone) {
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}
"""

_IN_PYTHON = """
import datetime, os, time

ahead = float(os.environ["AHEAD"])
time.time = lambda real=time.time: real() + ahead
time.time_ns = lambda real=time.time_ns: real() + int(ahead * 1e9)


class Kind(type(datetime.datetime)):
    def __instancecheck__(self, other):
        return isinstance(other, right)


class Wrong(datetime.datetime, metaclass=Kind):
    @classmethod
    def now(cls, tz=None):
        return right.fromtimestamp(time.time(), tz)


right, datetime.datetime = datetime.datetime, Wrong
"""


def wrong_clock(way: str, ahead: int, folder: Path) -> dict[str, str]:
    """`way`: C or Python. `ahead`: seconds, or behind where negative."""
    folder.mkdir(exist_ok=True)
    if way == "Python":
        (folder / "sitecustomize.py").write_text(_IN_PYTHON)
        path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH", "")]))
        return {"PYTHONPATH": path, "AHEAD": str(ahead)}
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs a C compiler, on Linux")
    source, library = folder / "wrong_clock.c", folder / "wrong_clock.so"
    source.write_text(_IN_C)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return {"LD_PRELOAD": str(library), "AHEAD": str(ahead)}
