#!/usr/bin/env bash
# certificates.sh FOLDER NAME ADDRESS…: makes FOLDER/NAME.crt and NAME.key, with which NAME (a host, the API or an
# operator) shows itself to NATS and to the API, signed by the cluster's authority FOLDER/ca.crt and ca.key, which it
# makes first where there is none. ADDRESSes are the IP addresses and names that NAME is reached by. Keep ca.key away
# from the hosts: who has it can become any of them.
set -euo pipefail
[ $# -ge 2 ] || { echo "usage: certificates.sh FOLDER NAME ADDRESS…" >&2; exit 2; }
folder=$1 name=$2; shift 2
[[ $name =~ ^[a-z0-9-]+$ && $name != ca ]] || { echo "certificates.sh: the name '$name' is none: use a-z, 0-9 and -" >&2; exit 2; }
command -v openssl >/dev/null || { echo "certificates.sh: openssl is missing; install it first" >&2; exit 1; }
umask 077
mkdir -p "$folder"
work=$(mktemp -d "$folder/.new.XXXXXX")
trap 'rm -rf --one-file-system "$work"' EXIT
quietly() { "$@" >"$work/log" 2>&1 || { echo "certificates.sh: $(tail -n 1 "$work/log")" >&2; exit 1; }; }
if [ ! -e "$folder/ca.key" ]; then
  quietly openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3650 -subj "/CN=Godwit authority" \
    -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign -keyout "$work/ca.key" -out "$work/ca.crt"
  mv "$work/ca.crt" "$folder/ca.crt"; mv "$work/ca.key" "$folder/ca.key"
fi
names=DNS:$name
for address in "$@"; do
  if [[ $address =~ ^[0-9.]+$ || $address == *:* ]]; then names+=,IP:$address; else names+=,DNS:$address; fi
done
printf 'subjectAltName=%s\nextendedKeyUsage=serverAuth,clientAuth\nkeyUsage=critical,digitalSignature\nbasicConstraints=critical,CA:FALSE\n' "$names" >"$work/extensions"
quietly openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/CN=$name" -keyout "$work/key" -out "$work/request"
quietly openssl x509 -req -in "$work/request" -CA "$folder/ca.crt" -CAkey "$folder/ca.key" -set_serial "0x$(openssl rand -hex 16)" -days 825 \
  -extfile "$work/extensions" -out "$work/crt"
mv "$work/key" "$folder/$name.key"
mv "$work/crt" "$folder/$name.crt"
chmod 644 "$folder/ca.crt" "$folder/$name.crt"
