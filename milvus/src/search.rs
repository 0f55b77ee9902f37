use std::time::Instant;

use prost::Message;
use serde_json::json;

use crate::cluster::{Cluster, call};
use crate::collection::VECTOR;
use crate::message::{
    BOOLEAN_EXPRESSION, EVENTUALLY, PlaceholderGroup, PlaceholderValue, SearchRequest,
    SearchResultData, SearchResults, data_type, pairs,
};
use crate::{Distance, MilvusError};

/// A search for the nearest rows of each query.
#[derive(Clone, Debug, PartialEq)]
pub struct Search {
    /// The collection.
    pub collection: String,
    /// Rows of the queries, row-major.
    pub queries: Vec<f32>,
    /// Values of a row.
    pub width: usize,
    /// Rows to find for each.
    pub k: usize,
    /// How rows are compared.
    pub distance: Distance,
    /// Candidates that the graph keeps; at least `k`.
    pub ef: usize,
    /// Which rows may be found, as an expression of Milvus; all when empty.
    pub expression: String,
}

/// What Milvus takes at most.
const MAX_EF: usize = 32_768;

impl Cluster {
    /// Returns the ordinals found for each query, in the cluster's order.
    ///
    /// # Errors
    /// [`MilvusError::Unavailable`] when no proxy answered; [`MilvusError::Answer`] when an answer is not one to these queries.
    pub async fn search(
        &self,
        search: Search,
        deadline: Option<Instant>,
    ) -> Result<Vec<Vec<u32>>, MilvusError> {
        let k = search.k;
        let n_queries = search.queries.len() / search.width;
        let request = request(search, n_queries);
        let answer: SearchResults = self.search_call(call!("Search"), request, deadline).await?;
        let results = answer.results.unwrap_or_default();
        read(results, n_queries, k).map_err(|what| MilvusError::Answer {
            call: "Search",
            what,
        })
    }
}

fn request(search: Search, n_queries: usize) -> SearchRequest {
    let rows = search.queries.chunks_exact(search.width);
    let values = rows.map(|row| row.iter().flat_map(|value| value.to_le_bytes()).collect());
    let placeholder = PlaceholderValue {
        tag: "$0".to_owned(),
        data_type: data_type::FLOAT_VECTOR,
        values: values.collect(),
    };
    let group = PlaceholderGroup {
        placeholders: vec![placeholder],
    };
    let ef = search.ef.min(MAX_EF).max(search.k);
    SearchRequest {
        collection_name: search.collection,
        expression: search.expression,
        placeholder_group: group.encode_to_vec(),
        expression_type: BOOLEAN_EXPRESSION,
        search_params: pairs([
            ("anns_field", VECTOR.to_owned()),
            ("topk", search.k.to_string()),
            ("metric_type", search.distance.name().to_owned()),
            ("params", json!({ "ef": ef }).to_string()),
            ("round_decimal", "-1".to_owned()),
        ]),
        // A collection does not change after its import.
        guarantee_timestamp: 1,
        n_queries: n_queries as i64,
        consistency_level: EVENTUALLY,
    }
}

fn read(results: SearchResultData, n_queries: usize, k: usize) -> Result<Vec<Vec<u32>>, String> {
    if results.n_queries != n_queries as i64 || results.counts.len() != n_queries {
        let found = results.counts.len();
        return Err(format!("{found} lists for {n_queries} queries"));
    }
    let ordinals = results.ids.and_then(|ids| ids.integers).unwrap_or_default();
    let ordinals = ordinals.data;
    let n_found: i64 = results.counts.iter().sum();
    if n_found != ordinals.len() as i64 {
        let found = ordinals.len();
        return Err(format!("{found} rows in lists of {n_found}"));
    }
    let mut ordinals = ordinals.into_iter();
    let mut lists = Vec::with_capacity(n_queries);
    for &count in &results.counts {
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        if count > k {
            return Err(format!("{count} rows where {k} were asked for"));
        }
        let list = ordinals.by_ref().take(count);
        let list =
            list.map(|ordinal| u32::try_from(ordinal).map_err(|_| format!("ordinal {ordinal}")));
        lists.push(list.collect::<Result<_, String>>()?);
    }
    Ok(lists)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Ids, Integers};

    fn results(counts: &[i64], ordinals: &[i64]) -> SearchResultData {
        let data = ordinals.to_vec();
        SearchResultData {
            n_queries: counts.len() as i64,
            ids: Some(Ids {
                integers: Some(Integers { data }),
            }),
            counts: counts.to_vec(),
        }
    }

    #[test]
    fn an_answer_is_cut_into_the_lists_of_its_queries() {
        let lists = read(results(&[1, 0, 2], &[7, 3, 4]), 3, 2).unwrap();
        assert_eq!(lists, [vec![7], vec![], vec![3, 4]]);
    }

    #[test]
    fn an_answer_to_something_else_is_refused() {
        for (answer, what) in [
            (results(&[1], &[7]), "1 lists for 2 queries"),
            (results(&[1, 1], &[7]), "1 rows in lists of 2"),
            (results(&[3, 0], &[1, 2, 3]), "3 rows where 2"),
            (results(&[1, 0], &[-1]), "ordinal -1"),
        ] {
            let refused = read(answer, 2, 2).unwrap_err();
            assert!(refused.contains(what), "{refused}");
        }
    }
}
