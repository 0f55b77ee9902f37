# The commands of everyday work; `just` lists them.

default:
    @just --list

# Compile, lint and format-check everything
check:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets --locked -- -D warnings

# All tests (faster with cargo-nextest; CI runs `cargo test`)
test *ARGS:
    cargo nextest run --workspace {{ARGS}}

# Licences, bans and sources of every dependency
deny:
    cargo deny check licenses bans sources
    cargo deny --manifest-path fuzz/Cargo.toml --config deny.toml check licenses bans sources

# Whether the fuzz targets compile; running them takes cargo-fuzz and a nightly compiler: `cargo +nightly fuzz run shard`
fuzz-check:
    cargo check --manifest-path fuzz/Cargo.toml --locked --target-dir target

# Regenerate the OpenAPI document, and the Python client made of it
openapi:
    cargo run --quiet -- openapi > openapi/openapi.json
    clients/python/generate.py

# The Python client against a running server
python-client TRAWL="target/debug/trawl":
    cargo build --workspace --bin trawl
    clients/python/run {{TRAWL}}

# What CI runs
ci:
    .ci/run

# OpenAI's, Cohere's, Hugging Face's, LangChain's and LlamaIndex's clients against a running server
clients *ARGS:
    cargo build --release
    test -d target/clients || python3 -m venv target/clients
    target/clients/bin/pip install --quiet -r tests/clients/requirements.txt
    target/clients/bin/python tests/clients/run.py {{ARGS}}

# The search page in Chromium; screenshots are left in `target/ui`
ui TRAWL="target/debug/trawl":
    cargo build --workspace --bin trawl
    tests/ui/run {{TRAWL}}

# Requests that schemathesis makes of the OpenAPI document, against a running server
schemathesis TRAWL="target/debug/trawl":
    cargo build --workspace --bin trawl
    tests/schemathesis/run {{TRAWL}}

# Collections in an S3 server on this machine (moto)
objects TRAWL="target/debug/trawl":
    cargo build --workspace --bin trawl
    tests/objects/run {{TRAWL}}

# Rebuilds as clusters make them, on this machine: ray, slurm (needs root; one to four minutes), kubernetes (containers need root); ranks: training by mpirun, and by torchrun where it is on the path
cluster NAME TRAWL="target/debug/trawl":
    cargo build --workspace --bin trawl
    tests/cluster/run {{NAME}} {{TRAWL}}

# Training over MPI, on this machine; needs libopenmpi-dev, openmpi-bin and libclang-dev
mpi:
    cargo build -p trawl --features mpi
    tests/cluster/run ranks

# A Milvus cluster on this machine, every role a process, until Ctrl-C (an hour at most); prints its addresses
milvus-cluster *ARGS:
    tests/milvus/cluster {{ARGS}}

# Serving on such a cluster: publishing, filters, aliases that change, proxies and query nodes that are killed under load (4 minutes; needs `TRAWL_DATA`)
milvus TRAWL="target/debug/trawl":
    cargo build --workspace --bin trawl
    tests/milvus/run {{TRAWL}}

# CUDA without a GPU: every kernel compiles, and a build with the feature says what is missing
cuda:
    tests/cuda/run

# A release build that searches on GPUs; needs neither a toolkit nor a GPU
build-cuda:
    cargo build --release --locked --features cuda

# On a GPU: tests, search against PyTorch, bandwidth; leaves a log in `docs/gpu`
gpu:
    benches/gpu/run

# The steps of docker/Dockerfile.cpu in a bare Debian, up to an answered search; needs root and debootstrap
docker-replay TRAWL="target/release/trawl":
    tests/docker/replay.py --trawl {{TRAWL}}

# So many kills during builds, publishing, rollback and gc
kill-test n="300":
    TRAWL_KILLS={{n}} cargo test -p indexer --test build kill -- --nocapture

# So many bits flipped and files cut in everything that a collection holds
damage-test n="1000":
    TRAWL_DAMAGES={{n}} cargo test -p trawl --test it damage -- --nocapture
