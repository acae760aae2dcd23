# Two images from one file:
#
#   docker build -t smserve:gpu .
#   docker build -t smserve:cpu --build-arg BASE_IMAGE=debian:bookworm-slim \
#       --build-arg TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu .
#
# The base flavour of NVIDIA's image is enough: torch's wheels bring their own cuBLAS, cuDNN, NCCL and
# NVRTC, and the runtime flavour would bring a second copy of them that nothing loads. What counts is
# what base has: the variables that ask the container toolkit for GPUs, and a check of the driver's
# version before the container starts. Keep its CUDA release that of torch (torch.version.cuda).
#
# Plain RUN lines throughout: the file builds without BuildKit, too.
ARG BASE_IMAGE=nvidia/cuda:13.0.2-base-ubuntu24.04

# ---- what builds; nothing of this stage is left in an image
FROM ${BASE_IMAGE} AS builder
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        gcc libc6-dev python3-dev python3-pip python3-venv \
    && rm -rf /var/lib/apt/lists/*

# ---- everything that is not ours: changes with constraints.txt only
FROM builder AS dependencies
# other package indexes, as pip's variables of these names
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
# torch's own index of CPU wheels, for an image without CUDA's libraries; empty: the wheels of PyPI,
# which compute on a CPU as well, but are gigabytes larger
ARG TORCH_INDEX_URL
WORKDIR /build
COPY pyproject.toml constraints.txt deploy/docker/dependencies.py deploy/docker/triton_driver.py ./
RUN python3 -m venv --without-pip /opt/venv \
    && PIP="python3 -m pip --python /opt/venv/bin/python install --no-cache-dir -c constraints.txt" \
    && if [ -n "${TORCH_INDEX_URL}" ]; then \
        $PIP --no-deps --index-url "${TORCH_INDEX_URL}" torch torchvision; fi \
    && python3 dependencies.py pyproject.toml tracing > requirements.txt \
    && $PIP -r requirements.txt \
    && /opt/venv/bin/python triton_driver.py /opt/venv/lib/triton-driver

# ---- the project itself
FROM builder AS project
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
WORKDIR /build
COPY pyproject.toml README.md LICENSE ./
COPY service service
COPY exporters exporters
COPY model model
COPY kernels kernels
COPY demo demo
# at the place where the dependencies will lie, so that the command finds its interpreter
RUN python3 -m venv --without-pip /opt/venv \
    && python3 -m pip --python /opt/venv/bin/python install --no-cache-dir --no-deps --prefix /opt/project .

# ---- Locust: docker build --target loadtest; it needs neither torch nor the service
FROM builder AS loadtest-dependencies
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
WORKDIR /build
COPY constraints.txt ./
RUN python3 -m venv --without-pip /opt/venv \
    && python3 -m pip --python /opt/venv/bin/python install --no-cache-dir -c constraints.txt \
        locust httpx numpy pillow prometheus-client rich uvloop

FROM ${BASE_IMAGE} AS loadtest
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends python3 \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 smserve \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin smserve \
    && install -d -o smserve -g smserve /reports
COPY --from=loadtest-dependencies /opt/venv /opt/venv
WORKDIR /app
COPY loadtests loadtests
COPY benchmarks/report.py benchmarks/report.py
COPY demo/samples demo/samples
ENV PATH=/opt/venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
VOLUME /reports
ENTRYPOINT ["locust"]
CMD ["-f", "loadtests/locustfile.py", "--headless"]

# ---- the service
FROM ${BASE_IMAGE} AS service
# CC: Triton wants a C compiler once, for one file that is compiled already; see the script
ENV PATH=/opt/venv/bin:$PATH \
    CC=/usr/local/bin/compiled-before \
    HOME=/cache \
    TRITON_CACHE_DIR=/cache/triton \
    CUDA_CACHE_PATH=/cache/cuda \
    SMSERVE_HOST=0.0.0.0 \
    SMSERVE_MODELS_DIR=/models
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends python3 \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 smserve \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /cache --shell /usr/sbin/nologin smserve \
    && install -d -o smserve -g smserve /models /cache
USER 10001:10001
WORKDIR /cache
# model files, and machine code of kernels, which a new container need not compile again. The rest may
# be read-only: docker run --read-only --tmpfs /tmp
VOLUME ["/models", "/cache"]
EXPOSE 8000
# then it drains; give it the time: docker run --stop-timeout 60
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=180s --retries=3 CMD ["smserve", "health"]
ENTRYPOINT ["smserve"]
CMD ["serve"]

# what changes more often comes later
COPY deploy/docker/compiled-before /usr/local/bin/compiled-before
COPY --from=dependencies /opt/venv /opt/venv
COPY --from=project /opt/project /opt/venv

ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="smserve" \
      org.opencontainers.image.description="Spatial-Mamba vision models over HTTP: classification, detection, segmentation" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
