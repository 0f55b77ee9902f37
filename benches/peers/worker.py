"""One peer in one process: loads a model, warms up, then runs a round for every line it reads.

Started by encode.py as `worker.py REQUEST`, where REQUEST is a JSON file with the peer, the workload and the threads.
Answers are JSON lines on standard output; whatever the libraries print goes to standard error.

A peer is a class with `round()`, which returns the seconds of each timed call, and, unless it trains, `outputs()`,
which returns one row per text in the order of the workload. Every peer takes token ids (sentence-transformers: texts)
and gives normalized mean-pooled vectors or one logit a pair; batches are made before the clock starts.

With `device` in the request, torch's peers compute there. Copies of batches and results are then inside the clock of a round, which waits
once, at its end.
"""

import hashlib
import json
import os
import resource
import sys
import time
from pathlib import Path

import numpy as np


def batches_of(workload):
    """Returns (indices, ids, mask, type ids) per batch: int64 arrays, padded with 0 to the longest of the batch.

    The order is by falling length, so that a batch holds texts of nearly the same length and little padding.
    """
    ids, type_ids = workload["ids"], workload["type_ids"]
    order = sorted(range(len(ids)), key=lambda index: -len(ids[index]))
    batches = []
    for start in range(0, len(order), workload["batch"]):
        indices = order[start:start + workload["batch"]]
        shape = (len(indices), len(ids[indices[0]]))
        batch = [np.zeros(shape, dtype=np.int64) for _ in range(3)]
        for row, index in enumerate(indices):
            for array, values in zip(batch, (ids[index], [1] * len(ids[index]), type_ids[index])):
                array[row, :len(values)] = values
        batches.append((indices, *batch))
    return batches


class Encoding:
    """The rounds of a peer that has `call(batch)`, which runs one prepared batch and returns its output."""

    def __init__(self, workload):
        self.n_texts = len(workload["ids"])
        self.batches = [(indices, self.prepare(*arrays)) for indices, *arrays in batches_of(workload)]

    def round(self):
        seconds = []
        for _, batch in self.batches:
            start = time.perf_counter()
            self.call(batch)
            seconds.append(time.perf_counter() - start)
        return seconds

    def on_host(self, output):
        return output

    def outputs(self):
        rows = [None] * self.n_texts
        for indices, batch in self.batches:
            for index, row in zip(indices, np.asarray(self.on_host(self.call(batch)), dtype=np.float32)):
                rows[index] = row
        return np.stack(rows)


def torch_threads(threads):
    import torch

    torch.set_num_threads(threads)
    torch.set_num_interop_threads(1)


class Torch(Encoding):
    """transformers' model with scaled_dot_product_attention, in f32 or bf16, as it is or compiled."""

    def __init__(self, request, workload, dtype="float32", compiled=False):
        import torch
        from transformers import AutoModel, AutoModelForSequenceClassification

        torch_threads(request["threads"])
        kind = AutoModelForSequenceClassification if workload["pairs"] else AutoModel
        dtype = getattr(torch, dtype)
        model = kind.from_pretrained(workload["model"], dtype=dtype, attn_implementation="sdpa").eval()
        self.device = request.get("device", "cpu")
        model = model.to(self.device)
        self.model = torch.compile(model, dynamic=True) if compiled else model
        self.pairs = workload["pairs"]
        super().__init__(workload)

    def prepare(self, ids, mask, type_ids):
        import torch

        inputs = {"input_ids": torch.tensor(ids)}
        # Without padding the model needs no mask, and without one it is faster.
        if not mask.all():
            inputs["attention_mask"] = torch.tensor(mask)
        if self.pairs:
            inputs["token_type_ids"] = torch.tensor(type_ids)
        mask = torch.tensor(mask, dtype=torch.float32).unsqueeze(-1)
        if self.device != "cpu":
            inputs, mask = {name: values.pin_memory() for name, values in inputs.items()}, mask.pin_memory()
        return inputs, mask

    def round(self):
        if self.device == "cpu":
            return super().round()
        start = time.perf_counter()
        for output in [self.call(batch) for _, batch in self.batches]:
            self.on_host(output)
        return [time.perf_counter() - start]

    def on_host(self, output):
        return output.cpu()

    def call(self, batch):
        import torch

        inputs, mask = batch
        inputs = {name: values.to(self.device, non_blocking=True) for name, values in inputs.items()}
        mask = mask.to(self.device, non_blocking=True)
        with torch.inference_mode():
            output = self.model(**inputs)
            if self.pairs:
                return output.logits.float()
            hidden = output.last_hidden_state.float()
            return torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1)


def export_onnx(workload, path):
    """Writes the model as plain operations to `path`, and after onnxruntime's optimizer to `path` + `.fused`.

    The model is BERT written out below with transformers' own weights: the library's forward builds its mask in ways
    that neither the exporter nor the fusions recognise.
    """
    import torch
    from onnxruntime.transformers import optimizer
    from transformers import AutoModel, AutoModelForSequenceClassification

    kind = AutoModelForSequenceClassification if workload["pairs"] else AutoModel
    model = kind.from_pretrained(workload["model"], attn_implementation="eager").eval()
    bert = model.bert if workload["pairs"] else model
    config = model.config
    if config.model_type != "bert":
        raise SystemExit(f"only BERT models can be exported to ONNX, and this one is `{config.model_type}`")
    n_heads, width = config.num_attention_heads, config.hidden_size // config.num_attention_heads

    class Plain(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, input_ids, attention_mask, token_type_ids):
            n_texts, length = input_ids.shape
            embeddings = bert.embeddings
            hidden = embeddings.word_embeddings(input_ids) + embeddings.token_type_embeddings(token_type_ids)
            hidden = embeddings.LayerNorm(hidden + embeddings.position_embeddings.weight[:length])
            bias = (1.0 - attention_mask[:, None, None, :].float()) * -10000.0
            for layer in bert.encoder.layer:
                attention = layer.attention.self
                query, key, value = (
                    projection(hidden).view(n_texts, length, n_heads, width).permute(0, 2, 1, 3)
                    for projection in (attention.query, attention.key, attention.value)
                )
                scores = query @ key.transpose(-1, -2) / width**0.5 + bias
                context = (scores.softmax(-1) @ value).permute(0, 2, 1, 3).reshape(n_texts, length, n_heads * width)
                output = layer.attention.output
                hidden = output.LayerNorm(output.dense(context) + hidden)
                inner = torch.nn.functional.gelu(layer.intermediate.dense(hidden))
                hidden = layer.output.LayerNorm(layer.output.dense(inner) + hidden)
            if workload["pairs"]:
                return model.classifier(torch.tanh(bert.pooler.dense(hidden[:, 0])))
            mask = attention_mask[:, :, None].float()
            return torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1)

    names = ["input_ids", "attention_mask", "token_type_ids"]
    example = torch.ones((2, 16), dtype=torch.int64)
    temporary = f"{path}.part"
    with torch.inference_mode():
        torch.onnx.export(
            Plain().eval(), (example, example, example), temporary, dynamo=False, opset_version=17, input_names=names,
            output_names=["output"], dynamic_axes={name: {0: "texts", 1: "length"} for name in names},
        )
    fused = optimizer.optimize_model(temporary, model_type="bert", num_heads=n_heads, hidden_size=config.hidden_size)
    counts = fused.get_fused_operator_statistics()
    print("fused operators:", counts, file=sys.stderr)
    if counts["Attention"] != config.num_hidden_layers:
        raise SystemExit(f"{counts['Attention']} of {config.num_hidden_layers} attention layers fused: {counts}")
    fused.save_model_to_file(f"{path}.fused")
    os.replace(temporary, path)


def onnx_path(request, workload):
    """Returns where the exported model is, after exporting it if nobody has. Its name holds the digest of the weights."""
    with open(Path(workload["model"]) / "model.safetensors", "rb") as weights:
        digest = hashlib.file_digest(weights, "sha256").hexdigest()
    path = Path(request["work_dir"]) / f"{digest[:16]}.onnx"
    if not path.exists():
        export_onnx(workload, path)
    return path


class OnnxRuntime(Encoding):
    """The fused graph in f32, or the plain graph with weights and activations in int8 (quantize_dynamic)."""

    def __init__(self, request, workload, int8=False):
        import onnxruntime

        path = onnx_path(request, workload)
        model = Path(f"{path}.int8" if int8 else f"{path}.fused")
        if int8 and not model.exists():
            from onnxruntime.quantization import QuantType, quantize_dynamic

            temporary = f"{model}.part"
            quantize_dynamic(path, temporary, weight_type=QuantType.QInt8, per_channel=True)
            os.replace(temporary, model)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = request["threads"]
        options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        names = {value.name for value in self.session.get_inputs()}
        self.names = [name for name in ("input_ids", "attention_mask", "token_type_ids") if name in names]
        super().__init__(workload)

    def prepare(self, ids, mask, type_ids):
        arrays = {"input_ids": ids, "attention_mask": mask, "token_type_ids": type_ids}
        return {name: arrays[name] for name in self.names}

    def call(self, batch):
        return self.session.run(None, batch)[0]


class OpenVino(Encoding):
    """The plain graph, converted by OpenVINO, with bf16 as its inference precision and one stream."""

    def __init__(self, request, workload):
        import openvino

        core = openvino.Core()
        settings = {
            "INFERENCE_PRECISION_HINT": "bf16",
            "INFERENCE_NUM_THREADS": request["threads"],
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
        }
        self.request = core.compile_model(core.read_model(onnx_path(request, workload)), "CPU", settings)
        self.request = self.request.create_infer_request()
        super().__init__(workload)

    def prepare(self, ids, mask, type_ids):
        return {"input_ids": ids, "attention_mask": mask, "token_type_ids": type_ids}

    def call(self, batch):
        return self.request.infer(batch)[0]


class SentenceTransformers:
    """Texts to vectors by `SentenceTransformer.encode`, tokenizing inside the clock."""

    def __init__(self, request, workload, batch):
        from sentence_transformers import SentenceTransformer

        torch_threads(request["threads"])
        self.model = SentenceTransformer(workload["model"], device="cpu")
        self.model.max_seq_length = workload["max_tokens"]
        self.texts, self.options = workload["texts"], {} if batch is None else {"batch_size": batch}

    def outputs(self):
        return self.model.encode(self.texts, **self.options)

    def round(self):
        start = time.perf_counter()
        self.outputs()
        return [time.perf_counter() - start]


class Training:
    """A training step on random tokens: forward, loss, backward, AdamW over all parameters; dropout is 0.

    `train-cross`: pairs scored by a cross-encoder, binary cross-entropy on its logits.
    `train-bi`: queries and passages, mean-pooled and normalized; cross-entropy of `q·p / 0.05` over all passages of
    the batch (InfoNCE), where the passages of query `i` start at row `i · n_passages / n_queries` with its positive.
    bf16 is autocast: the weights and AdamW's state stay f32.
    """

    def __init__(self, request, workload, bf16=False, compiled=False):
        import torch
        from transformers import AutoModel, AutoModelForSequenceClassification

        torch_threads(request["threads"])
        torch.manual_seed(1)
        kind = AutoModelForSequenceClassification if workload["pairs"] else AutoModel
        model = kind.from_pretrained(
            workload["model"], dtype=torch.float32, attn_implementation="sdpa",
            hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        ).train()
        if not workload["pairs"]:
            model.pooler = None  # not read by mean pooling, so it would only add unused parameters
        # `fused` is torch's fastest AdamW.
        self.device = request.get("device", "cpu")
        model = model.to(self.device)
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=2e-5, weight_decay=0.01, fused=True)
        self.model = torch.compile(model, dynamic=True) if compiled else model
        self.bf16, self.n_steps = bf16, workload["steps"]
        self.groups = [
            torch.randint(1000, model.config.vocab_size, shape, generator=torch.Generator().manual_seed(seed)).to(self.device)
            for seed, shape in enumerate(workload["shapes"])
        ]
        self.loss = self.binary_loss if workload["pairs"] else self.contrastive_loss

    def binary_loss(self):
        import torch

        (ids,) = self.groups
        logits = self.model(input_ids=ids).logits[:, 0].float()
        labels = (torch.arange(len(ids), device=self.device) % 2).float()
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)

    def contrastive_loss(self):
        import torch

        queries, passages = (
            torch.nn.functional.normalize(self.model(input_ids=ids).last_hidden_state.float().mean(1), dim=1)
            for ids in self.groups
        )
        scores = queries @ passages.T / 0.05
        positives = torch.arange(len(queries), device=self.device) * (len(passages) // len(queries))
        return torch.nn.functional.cross_entropy(scores, positives)

    def round(self):
        import torch

        seconds = []
        for _ in range(self.n_steps):
            start = time.perf_counter()
            with torch.autocast(self.device.split(":")[0], dtype=torch.bfloat16, enabled=self.bf16):
                loss = self.loss()
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            if self.device != "cpu":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
        if not torch.isfinite(loss):
            raise SystemExit(f"the loss is {loss.item()}")
        return seconds


# Name on the command line, for each kind of row: how to make the peer from the request and its workload.
ENCODING = {
    "torch-f32": Torch,
    "torch-bf16": lambda *given: Torch(*given, dtype="bfloat16"),
    "torch-compile-bf16": lambda *given: Torch(*given, dtype="bfloat16", compiled=True),
    "onnxruntime-f32": OnnxRuntime,
    "onnxruntime-int8": lambda *given: OnnxRuntime(*given, int8=True),
    "openvino-bf16": OpenVino,
}
TRAINING = {
    "torch-f32": Training,
    "torch-bf16": lambda *given: Training(*given, bf16=True),
    "torch-compile-bf16": lambda *given: Training(*given, bf16=True, compiled=True),
}
TEXTS = {
    "sentence-transformers-8": lambda *given: SentenceTransformers(*given, batch=8),
    "sentence-transformers": lambda *given: SentenceTransformers(*given, batch=None),
}
PEERS = {"encode": ENCODING, "train": TRAINING, "texts": TEXTS}


def main():
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    workload = json.loads(Path(request["workload"]).read_text(encoding="utf-8"))
    try:
        peer = PEERS[workload["kind"]][request["peer"]](request, workload)
    except ModuleNotFoundError as error:
        print(json.dumps({"missing": error.name}), file=answers)
        return
    peer.round()
    ready = {}
    if hasattr(peer, "outputs"):
        ready["outputs"] = f"{sys.argv[1]}.npy"
        np.save(ready["outputs"], peer.outputs())
    print(json.dumps({"ready": ready}), file=answers)
    for _ in sys.stdin:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
        seconds = peer.round()
        cpu = resource.getrusage(resource.RUSAGE_SELF).ru_utime - before
        print(json.dumps({"seconds": seconds, "cpu_s": cpu}), file=answers)


if __name__ == "__main__":
    main()
