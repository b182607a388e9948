# A small HTTP service on the CPU, examples/server.py:
#   docker build -t vocos . && docker run --rm -p 8000:8000 --read-only --tmpfs /tmp --cpus 2 --memory 1g vocos
# On an NVIDIA GPU: docker build --target gpu -t vocos-gpu . && docker run --gpus all ...
FROM python:3.12-slim AS base
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1 ORT_DISABLE_TELEMETRY=1
COPY . /src
RUN useradd --create-home --uid 10001 vocos && mkdir /app && cp /src/examples/server.py /src/examples/limits.py /app
WORKDIR /app
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health')"]
# ends within 8 s of SIGTERM: docker stop waits for 10
CMD ["python", "server.py", "--host", "0.0.0.0", "--port", "8000"]

FROM base AS gpu
# CUDA and cuDNN come with the wheels; the host needs the driver and the NVIDIA container toolkit
RUN pip install "/src[gpu,serve]" && rm -rf /src
USER vocos

FROM base AS cpu
RUN pip install "/src[cpu,serve]" && rm -rf /src
USER vocos
