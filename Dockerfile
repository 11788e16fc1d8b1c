# ARENA with all it needs; nothing is fetched when it runs.
#
#   docker build -t arena .                              for the CPU
#   docker build -t arena:cuda --build-arg TORCH=cu128 . for CUDA 12.8 (another build of torch: its name in PyTorch's index)
#   docker run --rm --network none --user "$(id -u):$(id -g)" -v "$PWD:/workspace" arena arena_predict -i in -o out --zero_shot liver
#   docker run --rm --network none --gpus all --shm-size 2g ... arena:cuda arena_adapt -d 101 -shots 5
FROM python:3.11-slim-bookworm

ARG TORCH=cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

WORKDIR /opt/arena
COPY constraints.txt ./
# torch first and from its own index, so that a change of this program does not fetch it again; what it needs from PyPI, where constraints.txt's versions are
RUN python -m pip install --no-deps -c constraints.txt --index-url "https://download.pytorch.org/whl/${TORCH}" torch \
    && python -m pip install -c constraints.txt torch
COPY pyproject.toml README.md LICENSE ./
COPY arena_pipeline arena_pipeline
COPY dataset_conversion dataset_conversion
COPY plans plans
RUN python -m pip install -c constraints.txt '.[baselines,ray,research]' \
    && python -m pip check \
    && useradd --create-home --uid 1000 arena \
    && install --directory --owner arena --mode 777 /workspace

# Whatever user it runs as, what it caches goes where that user may write.
ENV HOME=/tmp MPLCONFIGDIR=/tmp/matplotlib MPLBACKEND=Agg RAY_USAGE_STATS_ENABLED=0 PYTHONDONTWRITEBYTECODE=1
USER 1000
WORKDIR /workspace
CMD ["arena_info"]
