#!/bin/sh
# Classify images over HTTP with nothing but a shell and curl: one JSON line per image.
# Usage: MILL_URL=http://127.0.0.1:8080 MILL_KEY=... MODEL=default ./classify.sh REFERENCE...
set -eu

# Call, and say what the server said if it refuses.
call() {
  answer=$(curl --silent --show-error --fail-with-body --header "Authorization: Bearer $MILL_KEY" "$@") && return
  printf '%s\n' "$answer" >&2
  exit 1
}
# What stands in quotes behind a field's name in the answer.
field() { printf '%s' "$answer" | sed -n "s/.*\"$1\":\"\([^\"]*\)\".*/\1/p"; }

# One item per line: {"reference": "..."} with quotes and backslashes escaped.
items=$(printf '%s\n' "$@" | sed 's/["\\]/\\&/g; s/.*/{"reference": "&"}/')
# With the same key it is the same job, however often it is sent.
call --header "Content-Type: application/jsonl" --header "Idempotency-Key: $(date +%s)-$$" --data-binary "$items" \
  "$MILL_URL/v1/jobs?model=${MODEL:-default}&priority=interactive"
job=$(field id)

while case $(field status) in succeeded | partial | failed | cancelled | expired) false ;; esac do
  call "$MILL_URL/v1/jobs/$job?wait_s=30"
done

echo "job $job $(field status)" >&2
call "$MILL_URL/v1/jobs/$job/results"
printf '%s\n' "$answer"
