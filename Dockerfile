# One image for workers, migration, console, receiver of webhooks and Flower: `./dev image`, or docker-compose.yml.
# Dependencies come from requirements/worker.txt, pinned by hash; all are wheels, so nothing is compiled.

# `docker buildx imagetools inspect python:3.12-slim` prints the newest digest. Any base with CPython 3.11 or later as
# `python`, with its module venv, and useradd will do.
ARG BASE=docker.io/library/python:3.12-slim@sha256:78387bc3881b8273120a12ebe6c1ab22b018ccc2c9adf565ae1ac9b536e184ea

FROM ${BASE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY requirements/worker.txt /tmp/worker.txt
RUN python -m venv /opt/venv \
    && /opt/venv/bin/python -m pip install --no-compile --require-hashes --only-binary :all: -r /tmp/worker.txt \
    && /opt/venv/bin/python -m pip uninstall --yes pip \
    && find /opt/venv -depth -type d \( -name test -o -name tests -o -name testing \) -exec rm -r {} + \
    && find /opt/venv -type f -regex '.*\.\(pyi\|pyx\|pxd\|c\|cpp\|h\|hpp\|map\)' -delete

FROM ${BASE}
# Nothing is installed in a running container, so the base's pip goes as well.
RUN useradd --uid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin sendq \
    && rm -rf /usr/local/lib/python3*/site-packages/pip* /usr/local/bin/pip* /usr/share/python-wheels \
        "$(python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')/ensurepip"
COPY --from=build /opt/venv /opt/venv
WORKDIR /app
COPY sendq sendq
COPY tasks tasks
COPY worker worker
COPY settings settings
COPY sendq_worker sendq_worker
COPY deploy/bytecode.py /tmp/bytecode.py
# PYTHONPATH: the `celery` script (Flower) does not search the working directory by default.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/app \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
RUN REDIS_URL=redis://localhost python /tmp/bytecode.py && rm /tmp/bytecode.py
USER 10001
# Celery's warm shutdown. Give the container more time than SENDQ_GRACE_S (30 s), or calls in flight are cut off.
STOPSIGNAL SIGTERM
CMD ["python", "-m", "worker", "-E"]
