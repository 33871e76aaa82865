# In place of postgres:17 where that cannot be pulled: Debian's PostgreSQL, and of the image's entry what compose.yaml uses.
ARG PYTHON_IMAGE=docker.io/library/python:3.12-slim
# hadolint ignore=DL3006
FROM ${PYTHON_IMAGE}
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends postgresql \
 && rm -rf /var/lib/apt/lists/* && ln -s /usr/lib/postgresql/*/bin/* /usr/local/bin/ \
 && install -d -o postgres /var/lib/postgresql/data
COPY postgres.sh /usr/local/bin/postgres.sh
USER postgres
STOPSIGNAL SIGINT
ENTRYPOINT ["bash", "/usr/local/bin/postgres.sh"]
