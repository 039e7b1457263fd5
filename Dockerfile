# One image for worker, migration and Flower (docker-compose.yml).
# Dependencies come from requirements/worker.txt, pinned by hash; all are wheels, so nothing is compiled.

FROM python:3.12-slim AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY requirements/worker.txt /tmp/worker.txt
RUN python -m venv /opt/venv \
    && /opt/venv/bin/pip install --require-hashes --only-binary :all: -r /tmp/worker.txt \
    && /opt/venv/bin/pip uninstall --yes pip

FROM python:3.12-slim
RUN useradd --uid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin sendq
COPY --from=build /opt/venv /opt/venv
WORKDIR /app
COPY sendq sendq
COPY tasks tasks
COPY worker worker
COPY settings settings
COPY sendq_worker sendq_worker
# PYTHONPATH: the `celery` script (Flower) does not search the working directory by default.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/app \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
USER 10001
# Celery's warm shutdown. Give the container more time than SENDQ_GRACE_S (30 s), or calls in flight are cut off.
STOPSIGNAL SIGTERM
CMD ["python", "-m", "worker", "-E"]
