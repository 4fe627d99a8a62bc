# Plain Dockerfile syntax throughout, so that the classic builder and docker-compose 1.29 build it as well as BuildKit.

FROM python:3.11-slim AS builder
WORKDIR /srv

# An environment without a pip of its own is 25 MB smaller.
COPY requirements-prod.txt ./
RUN python -m venv --without-pip /opt/venv \
    && pip --python /opt/venv/bin/python install --no-cache-dir --no-compile --require-hashes -r requirements-prod.txt

# Bytecode is made here, since the running container cannot write any. unchecked-hash: an image's sources never change,
# so the interpreter need not compare them at each start.
RUN /opt/venv/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/venv/lib

# A checkout made under umask 077 would be unreadable to the container's user.
COPY app ./app
RUN chmod -R u=rwX,go=rX app \
    && /opt/venv/bin/python -m compileall -q --invalidation-mode unchecked-hash app


FROM python:3.11-slim
LABEL org.opencontainers.image.title="RAG Chat Storage" \
      org.opencontainers.image.description="The system of record for RAG conversations: sessions, messages and the evidence behind each answer." \
      org.opencontainers.image.licenses="Apache-2.0"

# A named volume mounted here takes over this owner the first time it is used.
RUN install -d -o 10001 -g 10001 -m 0750 /var/log/rag-chat-storage

WORKDIR /srv
COPY --from=builder /opt/venv /opt/venv
COPY --from=builder /srv/app ./app

# A read-only root is the intended way to run, so no attempt is made to write bytecode beside the sources.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    LOG_FILE=/var/log/rag-chat-storage/app.log

# In numbers: Kubernetes' runAsNonRoot cannot judge a name.
USER 10001:10001
EXPOSE 8000

# http.client rather than urllib: the latter would obey HTTP_PROXY, which a Docker client may set in every container.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import http.client, sys; c = http.client.HTTPConnection('127.0.0.1', 8000, timeout=4); c.request('GET', '/readyz'); sys.exit(c.getresponse().status != 200)"]

CMD ["python", "-m", "app", "serve", "--host", "0.0.0.0", "--port", "8000"]
