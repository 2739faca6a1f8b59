#!/bin/bash
# What the official image does at its start, as far as docker/compose.yaml relies on it.
set -euo pipefail
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    # As in the official image. Without a locale it would be SQL_ASCII, in which MLflow can store ASCII only.
    initdb --encoding=UTF8 --locale=C.UTF-8 --username="$POSTGRES_USER" \
        --pwfile="$POSTGRES_PASSWORD_FILE" --auth-host=scram-sha-256 --auth-local=trust
    echo "host all all all scram-sha-256" >> "$PGDATA/pg_hba.conf"
    pg_ctl -w -o "-c listen_addresses=''" start
    createdb --username="$POSTGRES_USER" "$POSTGRES_DB"
    pg_ctl -w stop
fi
exec postgres -c "listen_addresses=*"
