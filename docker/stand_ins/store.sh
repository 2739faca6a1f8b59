#!/bin/bash
# Takes MinIO's command line: server /objects ...
set -euo pipefail
cat > /tmp/store.cfg << END
[shoobx:mocks3]
log-level = WARNING
directory = $2
hostname = store
reload = False
[shoobx:server]
host-ip = 0.0.0.0
host-port = 9000
END
exec /opt/store/bin/sbx-mocks3-serve --config-file /tmp/store.cfg
