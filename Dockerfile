# Watchbill's images: the worker's, with what a worker needs and nothing of Kubernetes; the same with the libraries of
# agents that are language models; and the operator's.
#
#   docker build --target worker -t watchbill-worker .
#   docker build --target worker-llm -t watchbill-worker-llm .
#   docker build --target operator -t watchbill-operator .
#
# All run as user 65532 on a read-only root file system, with /tmp to write to. What is installed is pinned and hashed,
# comes as wheels only, and is put together in stages of which nothing but the result is kept: no pip, no cache, and
# nothing of the secrets that a build may need to reach its package index (both may be missing):
#   --secret id=pip,src=pip.conf   --secret id=ca,src=certificates.pem
#
# None needs an init: as PID 1 Watchbill forks, and what stays behind reaps zombies and passes signals on. The kernel drops
# a signal that PID 1 doesn't handle, and Python needs some 100 ms until it can: a pod that is deleted meanwhile would stay
# until it is killed. So SIGTERM is blocked before Python starts, which keeps it, and let through once it is handled.
#
# The worker delivers by every channel but apprise, which brings more than all the rest: an image of your own has it. Of the
# models' providers worker-llm has OpenAI's library, which most servers can be asked with; another is in an image of yours.
#
# Your own agents, either way: in an image of yours (with what they import beyond Watchbill), or in a ConfigMap that is
# mounted at /agents.
#
#   FROM python:3.12-slim AS libraries
#   RUN pip install --target /libraries -r requirements.txt
#   FROM watchbill-worker
#   COPY --from=libraries /libraries /libraries
#   ENV PYTHONPATH=/libraries
#   COPY my_agents.py /agents/
#
# Crews may name whatever is in /agents, and of the libraries only what ENV WATCHBILL_ALLOW_MODULES lists.

# Any Linux with Python 3.11 to 3.13 as `python3`, its venv and pip, and GNU env from 8.31 on. The venvs point at that very
# Python, so all stages have the same base.
ARG BASE=python:3.12-slim

FROM $BASE AS tools
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
# The venv that the images get has no pip of its own; that of the tools installs into it.
RUN python3 -m venv /tools && python3 -m venv --without-pip /opt/watchbill
# `pinned VENV FILE`. Compiled once, here, since the images cannot write bytecode; what Cython was given goes.
RUN printf '%s\n' '#!/bin/sh' 'set -e' \
      'if [ -s /run/secrets/ca ]; then export PIP_CERT=/run/secrets/ca; fi' \
      '/tools/bin/pip --python "$1/bin/python3" install --only-binary :all: --require-hashes --requirement "$2"' \
      'find "$1" -type f \( -name "*.pyx" -o -name "*.px[di]" -o -name "*.[ch]" \) -delete' \
      > /tools/bin/pinned && chmod +x /tools/bin/pinned

FROM tools AS wheel
COPY constraints/build.txt /build/constraints/
RUN --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=secret,id=ca \
    /tools/bin/pinned /tools /build/constraints/build.txt
COPY pyproject.toml README.md LICENSE /build/
COPY operator /build/operator
RUN cd /build && /tools/bin/hatchling build -t wheel -d /wheel

FROM tools AS worker-venv
COPY constraints/worker.txt /build/constraints/
RUN --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=secret,id=ca \
    /tools/bin/pinned /opt/watchbill /build/constraints/worker.txt
COPY --from=wheel /wheel /wheel
RUN /tools/bin/pip --python /opt/watchbill/bin/python3 install --no-deps --no-index --find-links /wheel watchbill

FROM worker-venv AS worker-llm-venv
COPY constraints/worker-llm.txt /build/constraints/
RUN --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=secret,id=ca \
    /tools/bin/pinned /opt/watchbill /build/constraints/worker-llm.txt

FROM tools AS operator-venv
COPY constraints/operator.txt /build/constraints/
RUN --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=secret,id=ca \
    /tools/bin/pinned /opt/watchbill /build/constraints/operator.txt
COPY --from=wheel /wheel /wheel
RUN /tools/bin/pip --python /opt/watchbill/bin/python3 install --no-deps --no-index --find-links /wheel watchbill

FROM $BASE AS runtime
# A name for the user, which some libraries look up; with its number, Kubernetes can see that it is not root.
RUN env --block-signal=TERM true \
 && echo 'watchbill:x:65532:65532:Watchbill:/tmp:/usr/sbin/nologin' >> /etc/passwd \
 && echo 'watchbill:x:65532:' >> /etc/group \
 && mkdir /agents
ENV PATH=/opt/watchbill/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    HOME=/tmp PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 65532:65532
EXPOSE 8080
ARG VERSION=
ARG REVISION=
LABEL org.opencontainers.image.licenses=Apache-2.0 \
      org.opencontainers.image.version=$VERSION \
      org.opencontainers.image.revision=$REVISION

FROM runtime AS operator
LABEL org.opencontainers.image.title="Watchbill operator" \
      org.opencontainers.image.description="Runs crews of AI agents on Kubernetes"
COPY --from=operator-venv /opt/watchbill /opt/watchbill
ENTRYPOINT ["env", "--block-signal=TERM", "watchbill"]
CMD ["operator"]

# Where a crew's own modules are. -P keeps the working folder off the module path, where it would come before Python's
# own modules: a crew's calendar.py hides nothing.
FROM runtime AS worker-runtime
WORKDIR /agents
ENV WATCHBILL_FOLDERS=/agents
ENTRYPOINT ["env", "--block-signal=TERM", "python3", "-P", "-m", "watchbill.worker"]

FROM worker-runtime AS worker-llm
LABEL org.opencontainers.image.title="Watchbill worker-llm" \
      org.opencontainers.image.description="Runs the tasks of a crew of AI agents, language models among them"
COPY --from=worker-llm-venv /opt/watchbill /opt/watchbill

FROM worker-runtime AS worker
LABEL org.opencontainers.image.title="Watchbill worker" \
      org.opencontainers.image.description="Runs the tasks of a crew of AI agents"
COPY --from=worker-venv /opt/watchbill /opt/watchbill
