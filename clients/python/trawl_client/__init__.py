"""A client of trawl's HTTP API.

    from trawl_client import Client

    with Client("http://127.0.0.1:8080", key="...") as client:
        found = client.search("docs", query="why is the sky blue", top_k=3)
        for hit in found["results"]:
            print(hit["score"], hit["id"])
"""

from .api import Client
from .transport import TrawlError

__all__ = ["Client", "TrawlError"]
