#!/usr/bin/env python3
"""The clients that people already have, against a running trawl: every answer is compared with what the binary itself says.

    python3 -m venv target/clients && target/clients/bin/pip install -r tests/clients/requirements.txt
    target/clients/bin/python tests/clients/run.py --trawl target/release/trawl

Starts `trawl serve` on a free loopback port with an encoder and a reranker, runs each check below, stops the server, and
exits 1 when a check failed. Vectors are compared with those of `trawl embed`, scores with those of the native route.
Nothing but loopback is asked.
"""

import argparse
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import urllib.error
import urllib.request
from pathlib import Path

# The clients have telemetry of their own; none of it is wanted here.
os.environ.update(HF_HUB_DISABLE_TELEMETRY="1", DO_NOT_TRACK="1", LANGSMITH_TRACING="false", NO_PROXY="127.0.0.1")

import numpy as np

TEXTS = ["the tide comes in twice a day", "why is the sky blue", "bread rises because yeast breathes", "an owl flies without a sound"]
QUERY = "what makes dough rise"
WIDTHS = [64, 128]
CHECKS = []


def check(function):
    """Registers a check."""
    CHECKS.append(function)
    return function


class Server:
    """`trawl serve` and what it should answer."""

    def __init__(self, args, folder):
        self.args = args
        config = Path(folder, "server.toml")
        config.write_text(
            '[server]\nbind = "127.0.0.1:0"\ndefault_timeout = "600s"\nmax_timeout = "600s"\n[queue]\nmax_wait = "600s"\n'
            f"[models.enc]\npath = {json.dumps(args.model)}\nrole = \"encoder\"\ndimensions = {WIDTHS}\n"
            f"[models.ce]\npath = {json.dumps(args.reranker)}\nrole = \"reranker\"\n"
        )
        command = [args.trawl, "serve", "--config", str(config), "--precision", "f32"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.url = None
        for line in self.process.stderr:
            if "serving on " in line:
                self.url = line.split("serving on ")[1].split(",")[0]
                break
        if self.url is None:
            raise SystemExit(f"{' '.join(command)}: ended with {self.process.wait()} before it served")
        self.wait_until_ready()
        output = subprocess.run(
            [args.trawl, "embed", "--model", args.model], input="\n".join(TEXTS), text=True, capture_output=True, check=True
        )
        self.vectors = np.array([json.loads(line) for line in output.stdout.splitlines()], dtype=np.float32)
        assert len(self.vectors) == len(TEXTS)
        native = self.post("/v1/rerank", {"model": "ce", "query": QUERY, "documents": TEXTS})
        raw = self.post("/rerank", {"query": QUERY, "texts": TEXTS, "raw_scores": True})
        self.order = [result["index"] for result in native["results"]]
        self.scores = {result["index"]: result["relevance_score"] for result in native["results"]}
        self.logits = {result["index"]: result["score"] for result in raw}
        assert self.order == [result["index"] for result in raw]

    def wait_until_ready(self):
        end = time.monotonic() + 600
        while time.monotonic() < end:
            try:
                return urllib.request.urlopen(self.url + "/readyz").close()
            except urllib.error.HTTPError:
                self.process.poll()
                if self.process.returncode is not None:
                    raise SystemExit("the server ended before it was ready")
                time.sleep(0.1)
        raise SystemExit("the server did not become ready in ten minutes")

    def post(self, path, body):
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), {"content-type": "application/json"})
        with urllib.request.urlopen(request) as response:
            return json.load(response)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout=300)
        if code != 0:
            raise SystemExit(f"the server ended with {code}")


def same(found, expected, tolerance=2e-6):
    found, expected = np.asarray(found, dtype=np.float32), np.asarray(expected, dtype=np.float32)
    assert found.shape == expected.shape, f"{found.shape}, expected {expected.shape}"
    worst = float(np.abs(found - expected).max())
    assert worst <= tolerance, f"values differ by {worst}"


def probability(logit):
    return 1 / (1 + math.exp(-logit))


def shorter(vectors, width):
    cut = vectors[:, :width]
    return cut / np.linalg.norm(cut, axis=1, keepdims=True)


def fails(kind, call):
    """The error of a call that has to fail in one way."""
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__}")


def openai_client(server):
    import openai

    return openai.OpenAI(base_url=server.url + "/v1", api_key="unused", max_retries=0)


@check
def openai_embeddings(server):
    client = openai_client(server)
    answer = client.embeddings.create(model="enc", input=TEXTS, user="somebody")  # base64 on the wire
    same([entry.embedding for entry in answer.data], server.vectors)
    assert [entry.index for entry in answer.data] == list(range(len(TEXTS)))
    assert answer.model == "enc" and answer.usage.prompt_tokens == answer.usage.total_tokens > len(TEXTS)
    answer = client.embeddings.create(model="enc", input=TEXTS, encoding_format="float")
    same([entry.embedding for entry in answer.data], server.vectors)
    answer = client.embeddings.create(model="enc", input=TEXTS[0])
    same([answer.data[0].embedding], server.vectors[:1])
    for width in WIDTHS:
        answer = client.embeddings.create(model="enc", input=TEXTS, dimensions=width)
        same([entry.embedding for entry in answer.data], shorter(server.vectors, width))


@check
def openai_token_ids(server):
    client = openai_client(server)
    ids = [[token["id"] for token in tokens] for tokens in server.post("/tokenize", {"inputs": TEXTS})]
    answer = client.embeddings.create(model="enc", input=ids)
    same([entry.embedding for entry in answer.data], server.vectors)
    answer = client.embeddings.create(model="enc", input=ids[0])
    same([answer.data[0].embedding], server.vectors[:1])


@check
def openai_models(server):
    client = openai_client(server)
    assert [model.id for model in client.models.list()] == ["enc", "ce"]
    assert client.models.retrieve("enc").owned_by == "trawl"


@check
def openai_errors(server):
    import openai

    client = openai_client(server)
    error = fails(openai.NotFoundError, lambda: client.embeddings.create(model="gpt", input="a"))
    assert error.code == "model_not_found" and "enc" in error.message, error
    fails(openai.NotFoundError, lambda: client.models.retrieve("gpt"))
    error = fails(openai.UnprocessableEntityError, lambda: client.embeddings.create(model="enc", input="a", dimensions=63))
    assert error.param == "dimensions" and error.type == "invalid_request_error", error
    fails(openai.UnprocessableEntityError, lambda: client.embeddings.create(model="enc", input=[]))


@check
def cohere_rerank(server):
    import cohere

    client = cohere.ClientV2(api_key="unused", base_url=server.url)
    answer = client.rerank(model="ce", query=QUERY, documents=TEXTS)
    assert [result.index for result in answer.results] == server.order
    same([result.relevance_score for result in answer.results], [probability(server.logits[i]) for i in server.order])
    assert len(client.rerank(model="ce", query=QUERY, documents=TEXTS, top_n=2).results) == 2
    # Cut after the tokens of its first words, a document scores as those words do.
    words = "yeast breathes warm"
    n_tokens = len(server.post("/tokenize", {"model": "ce", "inputs": words, "add_special_tokens": False})[0])
    long = words + " nothing to see here" * 200
    cut = client.rerank(model="ce", query=QUERY, documents=[long], max_tokens_per_doc=n_tokens)
    short = client.rerank(model="ce", query=QUERY, documents=[words])
    same([cut.results[0].relevance_score], [short.results[0].relevance_score])
    assert "1 of 1 documents were cut" in cut.meta.warnings[0]
    error = fails(cohere.NotFoundError, lambda: client.rerank(model="gpt", query=QUERY, documents=TEXTS))
    assert "there is no reranker `gpt`" in error.body["message"]


@check
def cohere_first_api(server):
    import cohere

    client = cohere.Client(api_key="unused", base_url=server.url)
    answer = client.rerank(model="ce", query=QUERY, documents=[{"text": text} for text in TEXTS], return_documents=True)
    assert [result.index for result in answer.results] == server.order
    assert answer.results[0].document.text == TEXTS[server.order[0]]
    same([result.relevance_score for result in answer.results], [server.scores[i] for i in server.order])


@check
def huggingface_hub_client(server):
    from huggingface_hub import InferenceClient
    from huggingface_hub.errors import HfHubHTTPError

    client = InferenceClient(model=server.url)
    same(client.feature_extraction(TEXTS[0]), server.vectors[:1])
    same(client.feature_extraction(TEXTS, normalize=True, truncate=True, truncation_direction="right"), server.vectors)
    similar = client.sentence_similarity(TEXTS[0], other_sentences=TEXTS)
    same(similar, server.vectors @ server.vectors[0])
    named = InferenceClient(model=server.url + "/embed?model=enc")
    same(named.feature_extraction(TEXTS), server.vectors)
    fails(HfHubHTTPError, lambda: client.feature_extraction("word " * 1000, truncate=False))


@check
def langchain_huggingface(server):
    from huggingface_hub import InferenceClient
    from langchain_huggingface import HuggingFaceEndpointEmbeddings

    # The class itself takes names of the hub only, since its version 1.2.
    embeddings = HuggingFaceEndpointEmbeddings(model="trawl/enc", huggingfacehub_api_token="unused")
    embeddings.client = InferenceClient(model=server.url)
    same(embeddings.embed_documents(TEXTS), server.vectors)
    same([embeddings.embed_query(TEXTS[1])], server.vectors[1:2])


@check
def langchain_openai(server):
    from langchain_openai import OpenAIEmbeddings

    # Without the switch the class sends token ids of another model's vocabulary.
    embeddings = OpenAIEmbeddings(model="enc", base_url=server.url + "/v1", api_key="unused", check_embedding_ctx_length=False)
    same(embeddings.embed_documents(TEXTS), server.vectors)
    same([embeddings.embed_query(TEXTS[1])], server.vectors[1:2])


@check
def langchain_cohere(server):
    from langchain_cohere import CohereRerank

    reranker = CohereRerank(model="ce", cohere_api_key="unused", base_url=server.url, top_n=3)
    ranked = reranker.rerank(TEXTS, QUERY)
    assert [result["index"] for result in ranked] == server.order[:3]


@check
def langchain_community_jina(server):
    from langchain_community.document_compressors import jina_rerank

    jina_rerank.JINA_API_URL = server.url + "/v1/rerank"  # a constant there
    reranker = jina_rerank.JinaRerank(model="ce", jina_api_key="unused", top_n=3)
    ranked = reranker.rerank(TEXTS, QUERY)
    assert [result["index"] for result in ranked] == server.order[:3]


@check
def llama_index_openai(server):
    from llama_index.embeddings.openai import OpenAIEmbedding

    embedding = OpenAIEmbedding(model_name="enc", api_base=server.url + "/v1", api_key="unused", max_retries=0)
    same(embedding.get_text_embedding_batch(TEXTS), server.vectors)
    same([embedding.get_query_embedding(TEXTS[1])], server.vectors[1:2])


@check
def llama_index_tei(server):
    from llama_index.embeddings.text_embeddings_inference import TextEmbeddingsInference

    embedding = TextEmbeddingsInference(model_name="enc", base_url=server.url, text_instruction="", query_instruction="")
    # It puts a blank between the empty instruction and the text, which the tokenizer does not see.
    same(embedding.get_text_embedding_batch(TEXTS), server.vectors)
    same([embedding.get_query_embedding(TEXTS[1])], server.vectors[1:2])


def llama_nodes():
    from llama_index.core.schema import NodeWithScore, TextNode

    return [NodeWithScore(node=TextNode(text=text), score=0.0) for text in TEXTS]


def llama_rerank(server, postprocessor, n):
    nodes = postprocessor.postprocess_nodes(llama_nodes(), query_str=QUERY)
    assert [node.node.text for node in nodes] == [TEXTS[i] for i in server.order[:n]]
    return [node.score for node in nodes]


@check
def llama_index_tei_rerank(server):
    from llama_index.postprocessor.tei_rerank import TextEmbeddingInference

    scores = llama_rerank(server, TextEmbeddingInference(base_url=server.url, top_n=3), 3)
    same(scores, [probability(server.logits[i]) for i in server.order[:3]])


@check
def llama_index_cohere_rerank(server):
    from llama_index.postprocessor.cohere_rerank import CohereRerank

    postprocessor = CohereRerank(api_key="unused", model="ce", base_url=server.url, top_n=3, max_retries=1)
    scores = llama_rerank(server, postprocessor, 3)
    same(scores, [probability(server.logits[i]) for i in server.order[:3]])


@check
def llama_index_jina_rerank(server):
    from llama_index.postprocessor.jinaai_rerank import JinaRerank

    postprocessor = JinaRerank(api_key="unused", model="ce", base_url=server.url + "/v1", top_n=3)
    scores = llama_rerank(server, postprocessor, 3)
    same(scores, [server.scores[i] for i in server.order[:3]])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trawl", default="target/release/trawl", help="the binary")
    parser.add_argument("--model", default="all-MiniLM-L6-v2", help="encoder: a directory, or a name in the model folder")
    parser.add_argument("--reranker", default="trawl-reranker-small", help="cross-encoder: a directory or a name")
    parser.add_argument("names", nargs="*", metavar="CHECK", help="only these checks")
    args = parser.parse_args()
    chosen = [function for function in CHECKS if not args.names or function.__name__ in args.names]
    n_failed = 0
    with tempfile.TemporaryDirectory() as folder:
        server = Server(args, folder)
        try:
            for function in chosen:
                try:
                    function(server)
                    print(f"ok      {function.__name__}")
                except Exception:
                    n_failed += 1
                    print(f"FAILED  {function.__name__}\n{traceback.format_exc()}")
        finally:
            server.stop()
    print(f"{len(chosen) - n_failed} of {len(chosen)} checks passed")
    return 1 if n_failed or not chosen else 0


if __name__ == "__main__":
    sys.exit(main())
