"""A plain server of sentence-transformers: a route a model, each request computed as it comes on one of FastAPI's threads."""

import argparse

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from sentence_transformers import CrossEncoder, SentenceTransformer

app = FastAPI()
models = {}


class Embed(BaseModel):
    inputs: list[str]


class Rerank(BaseModel):
    query: str
    documents: list[str]


@app.get("/health")
def health():
    return {}


@app.post("/embed")
def embed(request: Embed):
    return models["encoder"].encode(request.inputs, show_progress_bar=False).tolist()


@app.post("/rerank")
def rerank(request: Rerank):
    pairs = [(request.query, document) for document in request.documents]
    return models["reranker"].predict(pairs, show_progress_bar=False).tolist()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("encoder")
    parser.add_argument("reranker")
    args = parser.parse_args()
    models["encoder"] = SentenceTransformer(args.encoder, device="cpu")
    models["reranker"] = CrossEncoder(args.reranker, device="cpu")
    uvicorn.run(app, host="127.0.0.1", port=args.port, log_level="warning")
