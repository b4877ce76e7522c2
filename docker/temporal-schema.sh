#!/bin/sh
# Creates and upgrades Temporal's two databases; safe to run again.
set -eu

schema=/etc/temporal/schema/postgresql/v12
for pair in temporal:temporal temporal_visibility:visibility; do
    database=${pair%%:*}
    folder=${pair##*:}
    common="--plugin $SQL_PLUGIN --ep $SQL_HOST -p $SQL_PORT -u $SQL_USER --db $database"
    # An existing database and schema are left as they are; the update goes on from their version.
    temporal-sql-tool $common create || true
    temporal-sql-tool $common setup-schema -v 0.0 || true
    temporal-sql-tool $common update-schema -d "$schema/$folder/versioned"
done
