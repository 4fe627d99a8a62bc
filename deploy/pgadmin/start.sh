#!/bin/sh
# Before pgAdmin starts: the database's password into a password file, its user and name into the server list.
# At every start, so that what .env says now is what is used; pgAdmin itself reads the list once, for a new volume.
set -eu
umask 077

# As a field of a password file, and as a JSON string inside a replacement of sed's s|||.
field() { printf '%s' "$1" | sed 's/[\\:]/\\&/g'; }
string() { printf '%s' "$1" | sed -e 's/["\\]/\\&/g' -e 's/[\\&|]/\\&/g'; }

# pgAdmin looks for "/.pgpass" in the folder of the user who is logged in, whose name it makes like this.
folder=$(printf '%s' "$PGADMIN_DEFAULT_EMAIL" | tr @ _)
case $folder in [0-9]*) folder=pga_user_$folder ;; esac
storage=/var/lib/pgadmin/storage/$folder
mkdir -p "$storage"
printf 'db:5432:*:%s:%s\n' "$(field "$POSTGRES_USER")" "$(field "$POSTGRES_PASSWORD")" >"$storage/.pgpass"

export PGADMIN_SERVER_JSON_FILE=/tmp/servers.json
sed -e "s|\"Username\": \".*\"|\"Username\": \"$(string "$POSTGRES_USER")\"|" \
  -e "s|\"MaintenanceDB\": \".*\"|\"MaintenanceDB\": \"$(string "$POSTGRES_DB")\"|" \
  /pgadmin4/servers.json >"$PGADMIN_SERVER_JSON_FILE"

exec "$@"
