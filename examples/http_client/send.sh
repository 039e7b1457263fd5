#!/usr/bin/env bash
# Sends an invoice with a file over the HTTP API, and asks what became of it. Needs curl and jq.
#
#   SENDQ_URL=http://127.0.0.1:8791 SENDQ_TOKEN=sendq_… ./send.sh GRANT invoice.pdf leyah@example.com
set -euo pipefail
grant=$1 file=$2 to=$3

# The token is passed on standard input: as an argument it would show in the list of processes.
ask() { printf 'header = "Authorization: Bearer %s"\n' "$SENDQ_TOKEN" | curl --silent --show-error --config - "$@"; }

number=$(basename "$file" .pdf)
request=$(jq --null-input --arg grant "$grant" --arg to "$to" \
  '{grant_id: $grant, message: {to: [$to], subject: "Your invoice", body: "<p>See the file.</p>"}}')
# --retry repeats after 408, 429 and 5xx, and waits as long as the server says. The key makes that harmless.
job=$(ask --fail-with-body --retry 5 --retry-connrefused --header "Idempotency-Key: $number" \
  --form-string "send=$request" --form "attachments=@\"$file\";type=application/pdf" "$SENDQ_URL/v1/send")
echo "$job"
id=$(jq --raw-output .id <<<"$job")
ask --fail-with-body "$SENDQ_URL/v1/jobs/$id/why"
echo
