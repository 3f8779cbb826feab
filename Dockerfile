# CPU by default; for CUDA: --build-arg TORCH=https://download.pytorch.org/whl/cu128
FROM python:3.12-slim
ARG TORCH=https://download.pytorch.org/whl/cpu
WORKDIR /opt/ibviz
COPY pyproject.toml README.md LICENSE ./
COPY ibviz ibviz
RUN pip install --no-cache-dir --index-url "$TORCH" torch torchvision \
    && pip install --no-cache-dir . \
    && useradd --create-home user
USER user
WORKDIR /work
ENTRYPOINT ["ibviz"]
CMD ["--help"]
