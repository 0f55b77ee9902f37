"""The client against the server at HOST; clients/python/run starts one."""

import os
import socket
import threading
import time
import unittest

from trawl_client import Client, TrawlError


class AgainstServer(unittest.TestCase):
    def setUp(self):
        self.client = self.connect(key=os.environ["KEY"])

    def connect(self, **options):
        client = Client(os.environ["HOST"], timeout=600, **options)
        self.addCleanup(client.close)
        return client

    def test_search(self):
        found = self.client.search("docs", query="why onions make you weep", mode="lexical", top_k=3)
        self.assertEqual(found["results"][0]["id"], "kitchen-01")
        self.assertEqual(found["collection"], "docs")
        only = {"must": [{"key": "subject", "match": {"value": "oceans"}}]}
        found = self.client.search("docs", query="weep", filter=only, rerank={"candidates": 5})
        self.assertTrue(found["results"])
        for hit in found["results"]:
            self.assertEqual(hit["metadata"]["subject"], "oceans")
        searches = [{"query": "onions"}, {"query": "a", "top_k": 0}]
        answered, refused = self.client.search_batch("docs", searches=searches)["results"]
        self.assertTrue(answered["results"])
        self.assertEqual(refused["error"]["code"], "validation")

    def test_documents(self):
        # A collection, what is written to it, and the next generation.
        made = self.client.create_collection("notes", encoder="all-MiniLM-L6-v2", schema={"fields": {"lang": "keyword"}})
        self.assertEqual(made["passages"], 0)
        documents = [{"_id": "a/1", "text": "salt", "lang": "en"}, {"_id": "b", "text": "sand"}, {"_id": "c", "text": "Sand", "lang": "de"}]
        written = self.client.add_documents("notes", documents)
        self.assertEqual((written["documents"], written["errors"]), (3, []))
        self.assertEqual(self.client.show_document("notes", "a/1")["passages"][0]["text"], "salt")
        self.assertEqual(self.client.delete_documents("notes", ids=["b"])["documents"], 1)
        self.assertEqual(self.client.delete_documents("notes", filter={"must": [{"key": "lang", "match": {"value": "de"}}]})["documents"], 1)
        task = self.client.compact("notes")
        while task["state"] == "running":
            time.sleep(0.05)
            task = self.client.show_task(task["task"])
        self.assertEqual(task["state"], "done")
        self.assertEqual(self.client.show_collection("notes")["counts"]["passages"], 1)
        self.assertEqual(len(self.client.list_generations("notes")["generations"]), 2)
        self.assertEqual({found["name"] for found in self.client.list_collections()["collections"]}, {"docs", "notes"})
        live, before = self.client.show_alias("notes", "live")["generation"], made["generation"]
        for change in [
            lambda: self.client.set_alias("notes", "live", if_match=before, generation=before, gate=False),
            lambda: self.client.roll_back_alias("notes", "live", if_match=before),
        ]:
            with self.assertRaises(TrawlError) as raised:
                change()
            self.assertEqual((raised.exception.code, raised.exception.status), ("precondition_failed", 412))
        back = self.client.roll_back_alias("notes", "live", if_match=live)
        self.assertEqual(back["generation"], before)
        self.assertEqual(self.client.set_alias("notes", "live", if_match=before, generation=live, gate=False)["generation"], live)

    def test_repeated_changes(self):
        add = lambda text: self.client.add_documents("docs", [{"_id": "twice", "text": text}], idempotency_key="add")
        self.assertEqual(add("salt"), add("salt"))
        with self.assertRaises(TrawlError) as raised:
            add("sand")
        self.assertIn("Idempotency-Key", str(raised.exception))
        delete = lambda: self.client.delete_documents("docs", ids=["twice"], idempotency_key="delete")
        self.assertEqual(delete(), delete())

    def test_models(self):
        embedded = self.client.embed(model="all-MiniLM-L6-v2", input=["salt", "sand"])
        self.assertEqual([len(entry["embedding"]) for entry in embedded["data"]], [32, 32])
        reranked = self.client.rerank(model="ce-mini", query="salt", documents=["sand", "sea"], top_n=1)
        self.assertEqual(len(reranked["results"]), 1)
        self.assertIn("trawl_http_requests_total", self.client.metrics())
        self.assertEqual(self.client.readyz()["status"], "ready")

    def test_errors(self):
        for code, status, ask in [
            ("not_found", 404, lambda: self.client.search("nosuch", query="a")),
            ("validation", 422, lambda: self.client.search("docs", query="a", top_k=0)),
            ("model_not_found", 404, lambda: self.client.show_model("nosuch")),
            ("unauthorized", 401, lambda: self.connect().list_collections()),
        ]:
            with self.assertRaises(TrawlError) as raised:
                ask()
            self.assertEqual((raised.exception.code, raised.exception.status), (code, status))
            self.assertTrue(raised.exception.request_id)
        bulk = self.connect(key=os.environ["KEY"], headers={"x-priority": "nonsense"})
        with self.assertRaises(TrawlError) as raised:
            bulk.list_collections()
        self.assertIn("x-priority", str(raised.exception))


class AgainstAnything(unittest.TestCase):
    """What a proxy, or a server that ends connections, does."""

    def serve(self, *answers):
        """The address of a server that gives each connection one answer and ends it, and what it says when one has ended."""
        listener = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listener.close)
        ended = threading.Semaphore(0)

        def answer_all():
            for status, headers, body in answers:
                connection, _ = listener.accept()
                with connection, connection.makefile("rb") as request:
                    while request.readline().strip():
                        pass
                    head = f"HTTP/1.1 {status} X\r\ncontent-length: {len(body)}\r\n{headers}\r\n"
                    connection.sendall((head + body).encode())
                ended.release()

        thread = threading.Thread(target=answer_all, daemon=True)
        thread.start()
        self.addCleanup(thread.join, 60)
        return f"http://127.0.0.1:{listener.getsockname()[1]}", ended

    def test_ended_connections(self):
        url, ended = self.serve(*[(200, "", '{"status": "ready"}')] * 3)
        with Client(url) as client:
            for _ in range(3):
                self.assertEqual(client.readyz()["status"], "ready")
                self.assertTrue(ended.acquire(timeout=600))

    def test_errors_of_others(self):
        wrapped = '{"error": {"message": "later", "code": "overloaded"}}'
        for headers, body, detail, millis in [
            ("", "bad gateway", "bad gateway", None),
            ("", '["bad"]', '["bad"]', None),
            ("", '{"error": "no route"}', "no route", None),
            ("retry-after: 2\r\n", wrapped, "later", 2000),
        ]:
            url, _ = self.serve((502, headers, body))
            with Client(url) as client, self.assertRaises(TrawlError) as raised:
                client.readyz()
            self.assertIn(detail, str(raised.exception))
            self.assertEqual(raised.exception.retry_after_ms, millis)

    def test_addresses(self):
        for url, asked in [
            ("http://[::1]", ("::1", 80)),
            ("https://[::1]", ("::1", 443)),
            ("http://[::1]:8080/trawl", ("::1", 8080)),
            ("http://search.example", ("search.example", 80)),
        ]:
            connection = Client(url)._connection
            self.assertEqual((connection.host, connection.port), asked)
        for url in ["127.0.0.1:8080", "localhost:8080", "search.example", "http://"]:
            with self.assertRaises(ValueError):
                Client(url)


if __name__ == "__main__":
    unittest.main()
