# The HTTP service on the CPU, vocos-onnx serve:
#   docker build -t vocos .
#   docker run --rm -p 8000:8000 -e VOCOS_TOKEN --read-only --tmpfs /tmp --cpus 2 --memory 1g vocos
# With VOCOS_TOKEN in the environment, clients need it as their bearer token; docs/guides/service.md has the rest.
# On an NVIDIA GPU: docker build --build-arg DEVICE=gpu -t vocos-gpu . && docker run --gpus all ...
#
# The layers, from what changes least: what is needed, the models (45 MB), the package. A change of the code makes the
# last one anew, which is small, and none of them holds the checkout.
FROM python:3.12-slim AS python
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PYTHONUNBUFFERED=1 ORT_DISABLE_TELEMETRY=1

# a file of its own, so that only a change of what is needed installs it anew
FROM python AS requirements
ARG DEVICE=cpu
COPY pyproject.toml /src/
RUN python -c "import tomllib; p = tomllib.load(open('/src/pyproject.toml', 'rb'))['project']; e = p['optional-dependencies']; print(*p['dependencies'], *e['$DEVICE'], *e['serve'], sep='\n')" > /requirements.txt

FROM python AS package
COPY pyproject.toml README.md LICENSE /src/
COPY export /src/export
COPY train /src/train
COPY vocos_onnx /src/vocos_onnx
RUN mkdir /src/models && pip install --no-deps --no-compile --prefix /package /src

FROM python
RUN useradd --create-home --uid 10001 vocos
# for a GPU, CUDA and cuDNN come with the wheels; the host needs the driver and the NVIDIA container toolkit
COPY --from=requirements /requirements.txt /app/
RUN pip install -r /app/requirements.txt
COPY models /usr/local/lib/python3.12/site-packages/vocos_onnx/models
COPY --from=package /package /usr/local
WORKDIR /app
USER vocos
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/healthz')"]
# ends within 8 s of SIGTERM: docker stop waits for 10
CMD ["vocos-onnx", "serve", "--host", "0.0.0.0", "--port", "8000"]
