use std::fmt::Write;

/// An operation of the OpenAPI document.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operation {
    pub id: &'static str,
    pub method: &'static str,
    /// With parameters in braces.
    pub path: &'static str,
}

impl Operation {
    /// The path, with its parameters in their order.
    pub fn path_of(&self, parameters: &[&str]) -> String {
        let mut path = String::new();
        let mut parameters = parameters.iter();
        for part in self.path.split('/').skip(1) {
            path.push('/');
            match part.starts_with('{') {
                true => {
                    let parameter = parameters.next().expect("one is given for each in braces");
                    push_escaped(&mut path, parameter);
                }
                false => path.push_str(part),
            }
        }
        assert!(parameters.next().is_none(), "{}", self.path);
        path
    }
}

/// Escapes what is not unreserved (RFC 3986), and leaves the `@` of `collection@alias`.
fn push_escaped(path: &mut String, part: &str) {
    for byte in part.bytes() {
        match byte.is_ascii_alphanumeric() || b"-._~@".contains(&byte) {
            true => path.push(byte.into()),
            false => write!(path, "%{byte:02X}").expect("a string takes everything"),
        }
    }
}

macro_rules! operations {
    ($($name:ident: $id:literal, $method:literal, $path:literal;)*) => {
        $(pub(crate) const $name: Operation = Operation { id: $id, method: $method, path: $path };)*

        /// Every operation that the client asks.
        #[cfg(test)]
        const ALL: &[Operation] = &[$($name),*];
    };
}

operations! {
    SEARCH: "search", "POST", "/v1/collections/{name}/search";
    SEARCH_BATCH: "search_batch", "POST", "/v1/collections/{name}/search/batch";
    FEEDBACK: "feedback", "POST", "/v1/collections/{name}/feedback";
    ADD_DOCUMENTS: "add_documents", "POST", "/v1/collections/{name}/documents";
    SHOW_DOCUMENT: "show_document", "GET", "/v1/collections/{name}/documents/{id}";
    DELETE_DOCUMENTS: "delete_documents", "POST", "/v1/collections/{name}/documents/delete";
    EVALUATE: "evaluate", "POST", "/v1/eval";
    COMPACT: "compact", "POST", "/v1/collections/{name}/compact";
    LIST_TASKS: "list_tasks", "GET", "/v1/tasks";
    SHOW_TASK: "show_task", "GET", "/v1/tasks/{task}";
    CANCEL_TASK: "cancel_task", "POST", "/v1/tasks/{task}/cancel";
    LIST_COLLECTIONS: "list_collections", "GET", "/v1/collections";
    SHOW_COLLECTION: "show_collection", "GET", "/v1/collections/{name}";
    CREATE_COLLECTION: "create_collection", "PUT", "/v1/collections/{name}";
    DELETE_COLLECTION: "delete_collection", "DELETE", "/v1/collections/{name}";
    LIST_GENERATIONS: "list_generations", "GET", "/v1/collections/{name}/generations";
    SHOW_ALIAS: "show_alias", "GET", "/v1/collections/{name}/aliases/{alias}";
    SET_ALIAS: "set_alias", "PUT", "/v1/collections/{name}/aliases/{alias}";
    ROLL_BACK_ALIAS: "roll_back_alias", "POST", "/v1/collections/{name}/aliases/{alias}/rollback";
    SET_SHADOW: "set_shadow", "PUT", "/v1/collections/{name}/shadow";
    SHOW_SHADOW: "show_shadow", "GET", "/v1/collections/{name}/shadow";
    END_SHADOW: "end_shadow", "DELETE", "/v1/collections/{name}/shadow";
    EMBED: "embed", "POST", "/v1/embeddings";
    RERANK: "rerank", "POST", "/v1/rerank";
    LIST_MODELS: "list_models", "GET", "/v1/models";
    SHOW_MODEL: "show_model", "GET", "/v1/models/{id}";
    VERSION: "version", "GET", "/v1/version";
    LIMITS: "limits", "GET", "/v1/limits";
    READYZ: "readyz", "GET", "/readyz";
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use serde_json::Value;

    use super::*;

    /// Operations that have no method, each with the reason.
    const LEFT_OUT: [(&str, &str); 13] = [
        ("tei_decode", "for clients of text-embeddings-inference"),
        ("tei_embed", "for clients of text-embeddings-inference"),
        ("tei_embed_all", "for clients of text-embeddings-inference"),
        ("tei_health", "for clients of text-embeddings-inference"),
        ("tei_info", "for clients of text-embeddings-inference"),
        ("tei_predict", "for clients of text-embeddings-inference"),
        ("tei_rerank", "for clients of text-embeddings-inference"),
        ("tei_similarity", "for clients of text-embeddings-inference"),
        ("tei_tokenize", "for clients of text-embeddings-inference"),
        ("cohere_rerank", "for Cohere's clients"),
        ("livez", "for what restarts the server"),
        ("metrics", "for Prometheus"),
        ("openapi", "this crate was compiled with its types"),
    ];

    #[test]
    fn operations_are_those_of_the_document() {
        let document = include_str!("../../../openapi/openapi.json");
        let document: Value = serde_json::from_str(document).unwrap();
        let mut documented = BTreeMap::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                if let Some(id) = operation["operationId"].as_str() {
                    documented.insert(id, (method.to_ascii_uppercase(), path.as_str()));
                }
            }
        }
        for operation in ALL {
            let asked = (operation.method.to_owned(), operation.path);
            assert_eq!(documented.get(operation.id), Some(&asked));
        }
        let mut known: Vec<_> = ALL.iter().map(|operation| operation.id).collect();
        known.extend(LEFT_OUT.map(|(id, _)| id));
        let n_known = known.len();
        let known: BTreeSet<_> = known.into_iter().collect();
        assert_eq!(known.len(), n_known, "an operation is named twice");
        assert_eq!(known, documented.into_keys().collect());
    }

    #[test]
    fn parameters_are_escaped() {
        for (parameters, expected) in [
            (["docs", "a"], "/v1/collections/docs/documents/a"),
            (
                ["docs@next", "a/b c"],
                "/v1/collections/docs@next/documents/a%2Fb%20c",
            ),
            (
                ["docs", "é?#%"],
                "/v1/collections/docs/documents/%C3%A9%3F%23%25",
            ),
        ] {
            assert_eq!(SHOW_DOCUMENT.path_of(&parameters), expected);
        }
    }
}
