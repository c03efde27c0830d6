#!/bin/sh
# Classify images over HTTP with nothing but a shell: one JSON line per image.
# Usage: MILL_URL=http://127.0.0.1:8080 MILL_KEY=... MODEL=default ./classify.sh REFERENCE...
set -eu

call() { curl --silent --show-error --fail-with-body --header "Authorization: Bearer $MILL_KEY" "$@"; }
# What stands in quotes behind a field's name in one line of JSON.
field() { sed -n "s/.*\"$1\":\"\([^\"]*\)\".*/\1/p"; }

# One item per line: {"reference": "..."} with quotes and backslashes escaped.
job=$(printf '%s\n' "$@" | sed 's/["\\]/\\&/g; s/.*/{"reference": "&"}/' |
  call --header "Content-Type: application/jsonl" --header "Idempotency-Key: $(date +%s)-$$" \
    --data-binary @- "$MILL_URL/v1/jobs?model=${MODEL:-default}&priority=interactive" | field id)

status=accepted
while case $status in succeeded | partial | failed | cancelled | expired) false ;; esac do
  status=$(call "$MILL_URL/v1/jobs/$job?wait_s=30" | field status)
done

echo "job $job $status" >&2
call "$MILL_URL/v1/jobs/$job/results"
