#!/bin/bash
# Takes MinIO's command line (server /objects ...) and its variables.
set -euo pipefail
key="$(cat "$MINIO_ROOT_USER_FILE"),$(cat "$MINIO_ROOT_PASSWORD_FILE")"
exec /opt/rclone/bin/rclone serve s3 "$2" --addr :9000 --auth-key "$key" --vfs-cache-mode off
