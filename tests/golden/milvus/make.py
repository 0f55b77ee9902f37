"""Messages of Milvus as its Python client writes them: `pip install -r requirements.txt && python make.py > messages.json`."""

import json
import struct

from pymilvus.grpc_gen import common_pb2 as common
from pymilvus.grpc_gen import milvus_pb2 as milvus
from pymilvus.grpc_gen import schema_pb2 as schema


def pair(key, value):
    return common.KeyValuePair(key=key, value=value)


def collection_schema(description):
    ordinal = schema.FieldSchema(name="ordinal", is_primary_key=True, data_type=schema.Int64)
    vector = schema.FieldSchema(name="vector", data_type=schema.FloatVector, type_params=[pair("dim", "2")])
    metadata = schema.FieldSchema(name="metadata", data_type=schema.JSON)
    return schema.CollectionSchema(name="docs_1", description=description, fields=[ordinal, vector, metadata])


def placeholders():
    values = [struct.pack("<2f", 1.0, -2.0), struct.pack("<2f", 0.5, 0.25)]
    value = common.PlaceholderValue(tag="$0", type=common.FloatVector, values=values)
    return common.PlaceholderGroup(placeholders=[value])


ok = common.Status(error_code=common.Success)
params = [pair("anns_field", "vector"), pair("topk", "3"), pair("metric_type", "IP"), pair("params", '{"ef":128}'), pair("round_decimal", "-1")]
graph = [pair("index_type", "HNSW"), pair("metric_type", "L2"), pair("params", '{"M":16,"efConstruction":200}')]
messages = {
    "create_collection": milvus.CreateCollectionRequest(
        collection_name="docs_1",
        schema=collection_schema("about").SerializeToString(),
        shards_num=2,
        consistency_level=common.Eventually,
    ),
    "import": milvus.ImportRequest(collection_name="docs_1", files=["a/ordinal.npy", "a/vector.npy"]),
    "import_state": milvus.GetImportStateRequest(task=7),
    "create_index": milvus.CreateIndexRequest(collection_name="docs_1", field_name="vector", extra_params=graph),
    "load": milvus.LoadCollectionRequest(collection_name="docs_1", replica_number=2),
    "describe": milvus.DescribeCollectionRequest(collection_name="docs_1"),
    "statistics": milvus.GetCollectionStatisticsRequest(collection_name="docs_1"),
    "describe_index": milvus.DescribeIndexRequest(collection_name="docs_1"),
    "drop": milvus.DropCollectionRequest(collection_name="docs_1"),
    "progress": milvus.GetLoadingProgressRequest(collection_name="docs_1"),
    "alter_alias": milvus.AlterAliasRequest(collection_name="docs_1", alias="docs"),
    "create_alias": milvus.CreateAliasRequest(collection_name="docs_1", alias="docs"),
    "search": milvus.SearchRequest(
        collection_name="docs_1",
        dsl='json_contains(metadata["tag"], "a")',
        placeholder_group=placeholders().SerializeToString(),
        dsl_type=common.BoolExprV1,
        search_params=params,
        guarantee_timestamp=1,
        nq=2,
        consistency_level=common.Eventually,
    ),
    "refused": milvus.DescribeCollectionResponse(
        status=common.Status(error_code=common.CollectionNotExists, reason="no such collection", code=100)
    ),
    "described": milvus.DescribeCollectionResponse(
        status=ok, schema=collection_schema("about"), aliases=["docs"], collection_name="docs_1", shards_num=2
    ),
    "collections": milvus.ShowCollectionsResponse(status=ok, collection_names=["docs_1", "docs_2"], collection_ids=[3, 4]),
    "counted": milvus.GetCollectionStatisticsResponse(status=ok, stats=[pair("row_count", "16349")]),
    "importing": milvus.ImportResponse(status=ok, tasks=[7]),
    "imported": milvus.GetImportStateResponse(
        status=ok, state=common.ImportCompleted, row_count=5, id_list=[1, 2], infos=[pair("failed_reason", "")], id=7
    ),
    "index": milvus.DescribeIndexResponse(
        status=ok,
        index_descriptions=[
            milvus.IndexDescription(
                index_name="vector", indexID=9, params=graph, field_name="vector", indexed_rows=5, total_rows=5, state=common.Finished
            )
        ],
    ),
    "progressed": milvus.GetLoadingProgressResponse(status=ok, progress=50, refresh_progress=50),
    "found": milvus.SearchResults(
        status=ok,
        results=schema.SearchResultData(
            num_queries=2,
            top_k=3,
            scores=[0.5, 0.25, 0.125],
            ids=schema.IDs(int_id=schema.LongArray(data=[4, 1, 300])),
            topks=[2, 1],
        ),
        collection_name="docs_1",
    ),
}
print(json.dumps({name: message.SerializeToString(deterministic=True).hex() for name, message in messages.items()}, indent=1))
