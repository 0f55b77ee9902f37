"""The client against the server at HOST; clients/python/run starts one."""

import os
import time
import unittest

from trawl_client import Client, TrawlError


class AgainstServer(unittest.TestCase):
    def setUp(self):
        self.client = self.connect(key=os.environ["KEY"])

    def connect(self, **options):
        client = Client(os.environ["HOST"], **options)
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
        back = self.client.roll_back_alias("notes", "live")
        self.assertEqual(back["generation"], made["generation"])

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
        bulk = self.connect(key=os.environ["KEY"], headers={"x-priority": "nonsense"})
        with self.assertRaises(TrawlError) as raised:
            bulk.list_collections()
        self.assertIn("x-priority", str(raised.exception))


if __name__ == "__main__":
    unittest.main()
