# EspNet in a container: collectors, commands, and boards without hardware. docs/deploy.md says how to use it.
# The layout is that of a checkout that `make setup` made, so espcli runs as it does there.

ARG PYTHON=3.13

FROM python:${PYTHON}-slim AS build
WORKDIR /opt/espnet
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
# What the lock names, checked by its hashes; the tests' and the builders' packages are left out.
COPY Pipfile Pipfile.lock ./
RUN pip install pipenv \
 && pipenv requirements --hash >/tmp/requirements.txt \
 && python -m venv .venv \
 && .venv/bin/pip install --require-hashes --no-deps -r /tmp/requirements.txt \
 && rm -r .venv/bin/pip* .venv/lib/python*/site-packages/pip*
COPY espcli LICENSE ./
COPY esp32 esp32
COPY espnet espnet
# The user that runs it may not write here, so it is compiled now.
RUN .venv/bin/python -m compileall -q espnet -x '/simulator/hardware/' \
 && ./espcli --version

FROM python:${PYTHON}-slim
RUN groupadd --gid 8469 espnet \
 && useradd --uid 8469 --gid 8469 --no-create-home --home-dir /data --shell /usr/sbin/nologin espnet \
 && install -d -o espnet -g espnet -m 700 /data
# What changes seldom comes first.
COPY --from=build /opt/espnet/.venv /opt/espnet/.venv
COPY --from=build /opt/espnet/esp32 /opt/espnet/esp32
COPY --from=build /opt/espnet/espcli /opt/espnet/LICENSE /opt/espnet/
COPY --from=build /opt/espnet/espnet /opt/espnet/espnet
ENV PATH=/opt/espnet:$PATH ESPNET_DATA=/data ESPNET_LOG_FORMAT=json PYTHONUNBUFFERED=1
USER espnet
WORKDIR /data
# Only who is to blame is unhealthy: exit code 3 says that Redis does not tell, and a new collector would not
# change that. Boards that are offline do not count at all.
HEALTHCHECK --interval=30s --timeout=15s --start-period=60s --retries=3 \
    CMD espcli doctor --here >/dev/null || test $? -eq 3
ENTRYPOINT ["espcli"]
CMD ["run"]
