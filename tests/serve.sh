# For scripts that need a server: `. tests/serve.sh` serves the collection `docs` (the sample corpus, small models) with $TRAWL until the
# script ends, and sets HOST, KEY (a key for everything) and FOLDER (of its own; the server's log is there).
ROOT=$PWD
FOLDER=$(mktemp -d)
SERVER=
trap '[ -z "$SERVER" ] || kill $SERVER; rm -rf "$FOLDER"' EXIT
KEY=$(head -c 16 /dev/urandom | sha256sum | cut -d' ' -f1)
PORT=${PORT:-18099}
HOST=http://127.0.0.1:$PORT
MODELS=$ROOT/tests/fixtures/models
"$TRAWL" index build --corpus tests/fixtures/sample/corpus.jsonl --model "$MODELS/tiny-bert" --collection "$FOLDER/docs" > "$FOLDER/built" 2>&1 ||
  { cat "$FOLDER/built" >&2; exit 1; }
mkdir "$FOLDER/data"
cat > "$FOLDER/server.toml" <<CONFIG
[server]
bind = "127.0.0.1:$PORT"
data = "$FOLDER/data"
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
python3 - "$HOST/readyz" <<'PYTHON' || { cat "$FOLDER/log" >&2; exit 1; }
import sys, time, urllib.request
for _ in range(300):
    try:
        sys.exit(urllib.request.urlopen(sys.argv[1]).status != 200)
    except OSError:
        time.sleep(0.1)
sys.exit("the server did not become ready")
PYTHON
