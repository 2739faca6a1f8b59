#!/bin/sh
# Random secrets for docker/compose.yaml, into docker/secrets (never committed). What is there already stays.
# The folder is yours alone; the files in it can be read by the containers' users, to whom each is mounted singly.
set -eu
folder="$(dirname "$0")/secrets"
umask 077
mkdir -p "$folder"
random() { od -An -N"$1" -tx1 /dev/urandom | tr -d ' \n'; }
write() {
    [ -e "$folder/$1" ] || printf '%s' "$2" > "$folder/$1"
    chmod 644 "$folder/$1"
}
write ray_token "$(random 32)"
write postgres_password "$(random 24)"
write s3_access_key "ctxtune-$(random 4)"
write s3_secret_key "$(random 24)"
write aws_credentials "$(printf '[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n' \
    "$(cat "$folder/s3_access_key")" "$(cat "$folder/s3_secret_key")")"
echo "secrets are in $folder"
