# A stand-in for the image minio/minio where no registry of images can be reached: moto's S3 server with its objects in files of
# one volume (shoobx.mocks3). It takes uploads in parts and marks of folders, as Ray's storage wants them. It checks no keys.
ARG BASE=python:3.11.14-slim-bookworm
FROM ${BASE}
RUN python -m venv /opt/store && /opt/store/bin/pip install --no-cache-dir shoobx.mocks3==5.1.3 moto==5.2.5
COPY mc /usr/local/bin/mc
COPY store.sh /usr/local/bin/store.sh
VOLUME /objects
ENTRYPOINT ["bash", "/usr/local/bin/store.sh"]
