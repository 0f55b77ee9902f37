use prost::Message;
use serde_json::json;

use crate::MilvusError;
use crate::cluster::{Cluster, call};
use crate::message::{
    AliasRequest, CollectionSchema, CreateCollectionRequest, CreateIndexRequest,
    DescribeCollectionResponse, DescribeIndexResponse, EVENTUALLY, FieldSchema,
    GetCollectionStatisticsResponse, GetImportStateRequest, GetImportStateResponse,
    GetLoadingProgressRequest, GetLoadingProgressResponse, ImportRequest, ImportResponse,
    LoadCollectionRequest, NamedRequest, ShowCollectionsRequest, ShowCollectionsResponse, Status,
    data_type, import_state, index_state, pairs, value,
};

/// The field of a row's number, the primary key.
pub const ORDINAL: &str = "ordinal";
/// The field of its values.
pub const VECTOR: &str = "vector";
/// The field of what a filter may ask for.
pub const METADATA: &str = "metadata";

/// There is no such collection.
const NO_COLLECTION: i32 = 100;
/// There is no such alias.
const NO_ALIAS: i32 = 1600;

/// How rows are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distance {
    /// By inner product; higher is nearer.
    InnerProduct,
    /// By squared distance; lower is nearer.
    L2,
}

impl Distance {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::InnerProduct => "IP",
            Self::L2 => "L2",
        }
    }
}

/// A collection that is to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewCollection {
    /// Its name.
    pub name: String,
    /// What it says of itself.
    pub description: String,
    /// Values of a row.
    pub width: usize,
    /// Whether rows have metadata.
    pub has_metadata: bool,
    /// Shards that its rows are spread over.
    pub n_shards: usize,
}

/// What a collection says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// Its name, also where it was asked for by an alias.
    pub name: String,
    /// What whoever made it wrote.
    pub text: String,
    /// Values of a row.
    pub width: Option<usize>,
    /// Aliases that name it.
    pub aliases: Vec<String>,
}

/// The graph over the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hnsw {
    /// Links of a row.
    pub m: usize,
    /// Candidates kept while it is built.
    pub ef_construction: usize,
}

/// How far an import is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Import {
    /// So many rows were read.
    Running(u64),
    /// All are there.
    Done,
}

impl Cluster {
    /// The collection that a name or an alias names, where there is one.
    ///
    /// # Errors
    /// [`MilvusError`].
    pub fn describe(&self, name: &str) -> Result<Option<Description>, MilvusError> {
        let answer = self.admin_call(call!("DescribeCollection"), named(name));
        let answer: DescribeCollectionResponse = match answer {
            Err(MilvusError::Refused {
                code: NO_COLLECTION | NO_ALIAS,
                ..
            }) => return Ok(None),
            answer => answer?,
        };
        let schema = answer.schema.unwrap_or_default();
        let vector = schema.fields.iter().find(|field| field.name == VECTOR);
        let width = vector.and_then(|field| value(&field.type_params, "dim")?.parse().ok());
        let name = match schema.name.is_empty() {
            true => answer.collection_name,
            false => schema.name,
        };
        Ok(Some(Description {
            name,
            text: schema.description,
            width,
            aliases: answer.aliases,
        }))
    }

    /// The names of all collections.
    ///
    /// # Errors
    /// [`MilvusError`].
    pub fn collections(&self) -> Result<Vec<String>, MilvusError> {
        let answer: ShowCollectionsResponse =
            self.admin_call(call!("ShowCollections"), ShowCollectionsRequest {})?;
        Ok(answer.collection_names)
    }

    /// Makes an empty collection.
    ///
    /// # Errors
    /// [`MilvusError`].
    pub fn create(&self, new: &NewCollection) -> Result<(), MilvusError> {
        let ordinal = FieldSchema {
            name: ORDINAL.to_owned(),
            is_primary_key: true,
            data_type: data_type::INT64,
            ..FieldSchema::default()
        };
        let vector = FieldSchema {
            name: VECTOR.to_owned(),
            data_type: data_type::FLOAT_VECTOR,
            type_params: pairs([("dim", new.width.to_string())]),
            ..FieldSchema::default()
        };
        let metadata = new.has_metadata.then(|| FieldSchema {
            name: METADATA.to_owned(),
            data_type: data_type::JSON,
            ..FieldSchema::default()
        });
        let schema = CollectionSchema {
            name: new.name.clone(),
            description: new.description.clone(),
            fields: [ordinal, vector].into_iter().chain(metadata).collect(),
        };
        let request = CreateCollectionRequest {
            collection_name: new.name.clone(),
            schema: schema.encode_to_vec(),
            shards_num: i32::try_from(new.n_shards).unwrap_or(i32::MAX),
            consistency_level: EVENTUALLY,
        };
        self.admin_call::<Status>(call!("CreateCollection"), request)
            .map(drop)
    }

    /// Drops a collection with all its rows.
    ///
    /// # Errors
    /// [`MilvusError`].
    pub fn drop_collection(&self, name: &str) -> Result<(), MilvusError> {
        self.admin_call::<Status>(call!("DropCollection"), named(name))
            .map(drop)
    }

    /// Rows that were imported.
    ///
    /// # Errors
    /// [`MilvusError`].
    pub fn n_rows(&self, name: &str) -> Result<u64, MilvusError> {
        const CALL: crate::cluster::Call = call!("GetCollectionStatistics");
        let answer: GetCollectionStatisticsResponse = self.admin_call(CALL, named(name))?;
        let n_rows = value(&answer.stats, "row_count").and_then(|text| text.parse().ok());
        n_rows.ok_or_else(|| MilvusError::Answer {
            call: CALL.name,
            what: "no `row_count`".to_owned(),
        })
    }

    /// Begins to import files of the cluster's bucket, one for each field and named as the field; returns the task.
    ///
    /// # Errors
    /// [`MilvusError`].
    pub fn import(&self, name: &str, files: Vec<String>) -> Result<i64, MilvusError> {
        const CALL: crate::cluster::Call = call!("Import");
        let request = ImportRequest {
            collection_name: name.to_owned(),
            files,
        };
        let answer: ImportResponse = self.admin_call_once(CALL, request)?;
        match answer.tasks[..] {
            [task] => Ok(task),
            _ => Err(MilvusError::Answer {
                call: CALL.name,
                what: format!("{} tasks for one set of files", answer.tasks.len()),
            }),
        }
    }

    /// How far an import is.
    ///
    /// # Errors
    /// [`MilvusError::Refused`] with the reason when it failed.
    pub fn import_state(&self, task: i64) -> Result<Import, MilvusError> {
        const CALL: crate::cluster::Call = call!("GetImportState");
        let answer: GetImportStateResponse =
            self.admin_call(CALL, GetImportStateRequest { task })?;
        match answer.state {
            import_state::COMPLETED => Ok(Import::Done),
            import_state::FAILED | import_state::FAILED_AND_CLEANED => Err(MilvusError::Refused {
                call: "Import",
                reason: value(&answer.infos, "failed_reason")
                    .unwrap_or("no reason given")
                    .to_owned(),
                code: answer.state,
            }),
            _ => Ok(Import::Running(
                u64::try_from(answer.row_count).unwrap_or(0),
            )),
        }
    }

    /// Begins to build the graph.
    ///
    /// # Errors
    /// [`MilvusError`].
    pub fn create_index(
        &self,
        name: &str,
        hnsw: Hnsw,
        distance: Distance,
    ) -> Result<(), MilvusError> {
        let params = json!({ "M": hnsw.m, "efConstruction": hnsw.ef_construction });
        let request = CreateIndexRequest {
            collection_name: name.to_owned(),
            field_name: VECTOR.to_owned(),
            extra_params: pairs([
                ("index_type", "HNSW".to_owned()),
                ("metric_type", distance.name().to_owned()),
                ("params", params.to_string()),
            ]),
        };
        self.admin_call::<Status>(call!("CreateIndex"), request)
            .map(drop)
    }

    /// Rows that are in the graph.
    ///
    /// # Errors
    /// [`MilvusError::Refused`] with the reason when it cannot be built.
    pub fn indexed_rows(&self, name: &str) -> Result<u64, MilvusError> {
        let answer: DescribeIndexResponse = self.admin_call(call!("DescribeIndex"), named(name))?;
        let mut indexes = answer.index_descriptions.into_iter();
        let index = indexes.find(|index| index.field_name == VECTOR);
        let index = index.unwrap_or_default();
        match index.state {
            index_state::FAILED => Err(MilvusError::Refused {
                call: "CreateIndex",
                reason: index.fail_reason,
                code: index.state,
            }),
            _ => Ok(u64::try_from(index.indexed_rows).unwrap_or(0)),
        }
    }

    /// Begins to load a collection into so many groups of query nodes.
    ///
    /// # Errors
    /// [`MilvusError`], such as when there are not enough query nodes.
    pub fn load(&self, name: &str, n_replicas: usize) -> Result<(), MilvusError> {
        let request = LoadCollectionRequest {
            collection_name: name.to_owned(),
            replica_number: i32::try_from(n_replicas).unwrap_or(i32::MAX),
        };
        self.admin_call::<Status>(call!("LoadCollection"), request)
            .map(drop)
    }

    /// How much of a collection is loaded, in percent.
    ///
    /// # Errors
    /// [`MilvusError`], such as when it is not to be loaded.
    pub fn load_progress(&self, name: &str) -> Result<u64, MilvusError> {
        let request = GetLoadingProgressRequest {
            collection_name: name.to_owned(),
        };
        let answer: GetLoadingProgressResponse =
            self.admin_call(call!("GetLoadingProgress"), request)?;
        Ok(u64::try_from(answer.progress).unwrap_or(0))
    }

    /// Makes an alias name a collection, whatever it named before.
    ///
    /// # Errors
    /// [`MilvusError`].
    pub fn set_alias(&self, alias: &str, name: &str) -> Result<(), MilvusError> {
        let request = AliasRequest {
            collection_name: name.to_owned(),
            alias: alias.to_owned(),
        };
        let call = match self.describe(alias)? {
            Some(named) if named.name == name => return Ok(()),
            Some(_) => call!("AlterAlias"),
            None => call!("CreateAlias"),
        };
        self.admin_call::<Status>(call, request).map(drop)
    }
}

fn named(name: &str) -> NamedRequest {
    NamedRequest {
        collection_name: name.to_owned(),
    }
}
