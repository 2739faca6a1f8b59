# A stand-in for the image postgres:17.6-bookworm where no registry of images can be reached: Debian's PostgreSQL 15.
ARG BASE=python:3.11.14-slim-bookworm
FROM ${BASE}
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends postgresql-15 && rm -rf /var/lib/apt/lists/*
ENV PATH=/usr/lib/postgresql/15/bin:$PATH PGDATA=/var/lib/postgresql/data
COPY postgres.sh /usr/local/bin/postgres.sh
RUN mkdir -p /var/lib/postgresql/data && chown postgres:postgres /var/lib/postgresql/data
# hadolint ignore=DL3066
USER postgres
VOLUME /var/lib/postgresql/data
CMD ["bash", "/usr/local/bin/postgres.sh"]
