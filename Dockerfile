# The image of the pods: Ray and the project, for processors or for CUDA.
#
#   docker build -t registry.example.com/davam:2.60.0-cpu --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu .
#   docker build -t registry.example.com/davam:2.60.0-gpu .
#
# To repeat exactly, name the base by its digest: --build-arg BASE=python@sha256:...
ARG BASE=python:3.11.14-slim-bookworm

FROM ${BASE} AS build
# PyPI's torch is the one for CUDA, with all that it needs but the driver.
ARG TORCH_INDEX=https://pypi.org/simple
WORKDIR /app
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY davam davam
COPY cluster cluster
COPY pipelines pipelines
# Wheels alone: there is no compiler. The variable, unlike -c, also binds what builds the project.
ENV PIP_CONSTRAINT=/app/constraints.txt PIP_ONLY_BINARY=:all: PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore
RUN pip install --no-deps --index-url "${TORCH_INDEX}" torch && pip install -e .

FROM ${BASE}
# KubeRay's probes call wget.
RUN apt-get update && apt-get install -y --no-install-recommends wget && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 1000 --create-home davam
COPY --from=build /usr/local /usr/local
COPY --from=build /app /app
WORKDIR /app
ENV RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
USER 1000
CMD ["davam", "--help"]
