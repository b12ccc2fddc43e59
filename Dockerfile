# quantkit without PyTorch, for a CPU: docker build -t quantkit . && docker run --rm -v "$PWD:/models" quantkit convert ...
# With extras: --build-arg EXTRAS=calibrate,llamacpp. From an index of your own: --build-arg INDEX=https://...
ARG PYTHON=3.11-slim-bookworm

FROM python:${PYTHON} AS build
ARG EXTRAS=""
ARG INDEX=""
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY quantkit quantkit
COPY recipes recipes
RUN python -m venv /opt/quantkit \
    && /opt/quantkit/bin/python -m pip install --no-cache-dir --disable-pip-version-check \
       ${INDEX:+--index-url "${INDEX}"} ".${EXTRAS:+[${EXTRAS}]}"

FROM python:${PYTHON}
COPY --from=build /opt/quantkit /opt/quantkit
RUN useradd --create-home --uid 1000 quantkit \
    && mkdir /models \
    && chown quantkit: /models
# The package belongs to root: compiled loops and models go into the cache of the user.
ENV PATH="/opt/quantkit/bin:${PATH}" \
    XDG_CACHE_HOME=/home/quantkit/.cache \
    HF_HOME=/home/quantkit/.cache/huggingface
USER 1000
WORKDIR /models
HEALTHCHECK NONE
ENTRYPOINT ["quantkit"]
CMD ["--help"]
