# The app: workers, beat, Flower and the command line in one image. docker-compose.yml says who runs what.
ARG PYTHON=python:3.11-slim-bookworm

# ------------------------------------------------------------------ dependencies
FROM ${PYTHON} AS build
ARG UV_VERSION=0.13.9
# Which torch wheels, as in the Makefile: empty takes the default ones (CUDA), `cpu` the small ones.
ARG TORCH_BACKEND=
ENV UV_CACHE_DIR=/var/cache/uv UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy
RUN python -m pip install --no-cache-dir --disable-pip-version-check "uv==${UV_VERSION}" \
 && python -m venv --without-pip /opt/imagemill
WORKDIR /app
COPY pyproject.toml constraints.txt ./
# From pyproject.toml alone, so that a change of our code does not fetch torch again.
RUN --mount=type=cache,target=/var/cache/uv \
    uv pip install --python /opt/imagemill/bin/python --constraint constraints.txt \
      ${TORCH_BACKEND:+--torch-backend "${TORCH_BACKEND}"} \
      --requirements pyproject.toml --extra app --extra http --extra monitor --extra parquet --extra s3
COPY db db
COPY pipeline pipeline
COPY worker worker
# Bytecode is written here, for the containers cannot: their file system is read-only.
RUN python -m compileall -q db pipeline worker \
 && printf '#!/bin/sh\nexec python -m worker "$@"\n' > /opt/imagemill/bin/imagemill \
 && chmod 0755 /opt/imagemill/bin/imagemill \
 && chmod -R a+rX,go-w /app

# ------------------------------------------------------------------ the image
FROM ${PYTHON}
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="imagemill" \
      org.opencontainers.image.description="Classify images in bulk from a queue, on a warm model" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# A new volume mounted on the store's folder takes over its owner.
RUN groupadd --gid 10001 imagemill \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin imagemill \
 && install --directory --owner imagemill --group imagemill --mode 0750 /var/lib/imagemill/store
COPY --from=build /opt/imagemill /opt/imagemill
COPY --from=build /app /app
# /tmp is the one folder that is writable everywhere: home, caches of published weights and of CUDA kernels.
# Modules come from /app and never from the folder a command is run in.
ENV PATH=/opt/imagemill/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONPATH=/app \
    PYTHONSAFEPATH=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    XDG_CACHE_HOME=/tmp/cache \
    IMAGEMILL_HOME=/tmp/imagemill \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /app
USER 10001:10001
ENTRYPOINT ["python", "-m", "worker"]
CMD ["--help"]
HEALTHCHECK NONE
