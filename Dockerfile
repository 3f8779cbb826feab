# TORCH_INDEX: where the wheels of PyTorch for one platform lie, as its installation page names them (a CPU, a CUDA
# version). Empty: the wheels that pip finds, which on Linux hold CUDA.
FROM python:3.12-slim
ARG TORCH_INDEX=
WORKDIR /opt/ibviz
COPY pyproject.toml README.md LICENSE ./
COPY ibviz ibviz
# Versions are those that pyproject.toml allows.
# hadolint ignore=DL3013
RUN pip install --no-cache-dir ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch torchvision \
    && pip install --no-cache-dir . \
    && useradd --create-home --uid 1000 user
USER 1000
WORKDIR /work
ENTRYPOINT ["ibviz"]
CMD ["--help"]
