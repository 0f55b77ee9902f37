# For scripts that need a server: `. tests/serve.sh` serves the collection `docs` (the sample corpus, small models) with $TRAWL until the
# script ends, and sets HOST, KEY (a key for everything) and FOLDER (of its own; the server's log is there).
ROOT=$PWD
FOLDER=$(mktemp -d)
SERVER=
trap '[ -z "$SERVER" ] || { kill $SERVER && wait $SERVER; } || true; rm -rf "$FOLDER"' EXIT
KEY=$(head -c 16 /dev/urandom | sha256sum | cut -d' ' -f1)
MODELS=$ROOT/tests/fixtures/models
"$TRAWL" index build --corpus tests/fixtures/sample/corpus.jsonl --model "$MODELS/tiny-bert" --collection "$FOLDER/docs" > "$FOLDER/built" 2>&1 ||
  { cat "$FOLDER/built" >&2; exit 1; }
mkdir "$FOLDER/data"
cat > "$FOLDER/server.toml" <<CONFIG
[server]
bind = "127.0.0.1:0"
default_timeout = "600s"
max_timeout = "600s"
read_timeout = "600s"
write_timeout = "600s"
data = "$FOLDER/data"
[limits]
eval_queries = 100
[queue]
max_wait = "600s"
[auth]
keys = [{ name = "all", sha256 = "$(printf %s "$KEY" | sha256sum | cut -d' ' -f1)", scopes = ["admin"] }]
[models.all-MiniLM-L6-v2]
path = "$MODELS/tiny-bert"
role = "encoder"
[models.ce-mini]
path = "$MODELS/tiny-cross-bert"
role = "reranker"
[collections.docs]
path = "$FOLDER/docs"
encoder = "all-MiniLM-L6-v2"
reranker = "ce-mini"
CONFIG
"$TRAWL" serve --config "$FOLDER/server.toml" 2> "$FOLDER/log" &
SERVER=$!
HOST=$(python3 - "$FOLDER/log" $SERVER <<'PYTHON'
import os, re, sys, time, urllib.request
log, server = sys.argv[1:]
end = time.monotonic() + 300
while time.monotonic() < end and os.path.exists(f"/proc/{server}/exe"):
    try:
        address = re.search(r"serving on (http://127\.0\.0\.1:\d+)", open(log, errors="replace").read())[1]
        urllib.request.urlopen(f"{address}/readyz")
        sys.exit(print(address))
    except (OSError, TypeError):
        time.sleep(0.1)
sys.exit("the server did not become ready")
PYTHON
) || { cat "$FOLDER/log" >&2; exit 1; }
