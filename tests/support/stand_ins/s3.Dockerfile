# In place of versitygw where that cannot be pulled: nanio, which checks signatures and keeps objects as files too, under
# versitygw's command line and variables.
ARG PYTHON_IMAGE=docker.io/library/python:3.12-slim
# hadolint ignore=DL3006
FROM ${PYTHON_IMAGE}
# hadolint ignore=DL3008,DL3013
RUN apt-get update && apt-get install -y --no-install-recommends wget && rm -rf /var/lib/apt/lists/* \
 && python -m pip install --no-cache-dir nanio==0.1.7
COPY s3.py /usr/local/bin/s3.py
ENTRYPOINT ["python", "/usr/local/bin/s3.py"]
