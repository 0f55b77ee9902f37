use std::sync::Arc;

use index::Bitmap;
use store::{Facet, FilterError, SelectError};

use crate::{Live, SearchError, SearchOptions};

/// Values of a field that are counted in an answer, the most frequent ones.
pub const MAX_FACET_VALUES: usize = 100;

/// The passages that pass the filter of a search, and what was counted in them.
pub(crate) struct Selection {
    /// None where all pass.
    pub passages: Option<Arc<Bitmap>>,
    pub n_passages: u64,
    pub facets: Vec<Facet>,
}

impl Selection {
    /// Evaluates the filter and counts the facets, on one of tokio's blocking threads.
    pub async fn make(live: &Arc<Live>, options: &SearchOptions) -> Result<Self, SearchError> {
        let filter = options.filter.clone().filter(|filter| !filter.is_empty());
        let facets = options.facets.clone();
        let n_all = live.view().len();
        if filter.is_none() && facets.is_empty() {
            return Ok(Self {
                passages: None,
                n_passages: n_all,
                facets: Vec::new(),
            });
        }
        let live = Arc::clone(live);
        let task = tokio::task::spawn_blocking(move || {
            let view = live.view();
            let passages = filter.map(|filter| view.select(&filter));
            let passages = passages.transpose().map_err(refused(SearchError::Filter))?;
            let facets = view.facets(&facets, passages.as_ref(), MAX_FACET_VALUES);
            let facets = facets.map_err(refused(SearchError::Facets))?;
            Ok(Self {
                n_passages: passages.as_ref().map_or(n_all, Bitmap::len),
                passages: passages.map(Arc::new),
                facets,
            })
        });
        task.await.map_err(|_| SearchError::Stopped)?
    }
}

fn refused(of_request: fn(FilterError) -> SearchError) -> impl Fn(SelectError) -> SearchError {
    move |error| match error {
        SelectError::Filter(error) => of_request(error),
        SelectError::Store(error) => SearchError::Store(error),
    }
}
