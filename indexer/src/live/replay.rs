//! Changes applied to an open generation.

use collection::Collection;
use encoder::BiEncoder;
use retriever::{Live, Retriever};

use super::{DocumentChange, LiveError, Recipe};

/// Applies what the log has after the position that an open generation has reached; `encoder` makes vectors anew where they
/// are of another fingerprint. Searches see all of it or nothing. Returns the position reached.
///
/// The first call for a generation begins behind what it contains and what was left out of it when it was published.
///
/// # Errors
/// [`LiveError`] names record and document; searches then see what they saw.
pub fn replay(
    collection: &Collection,
    retriever: &Retriever,
    encoder: Option<&BiEncoder>,
) -> Result<u64, LiveError> {
    let recipe = Recipe::of(retriever.manifest(), retriever.row_form())?;
    let mut live = Live::clone(&retriever.live());
    let start = collection.replayed_after(retriever.generation())?;
    live.advance(live.position().max(start));
    let before = live.position();
    let mut failed = Ok(());
    let end = collection.read_log(before, &mut |record| {
        if failed.is_ok() {
            failed = DocumentChange::of_record(record).and_then(|change| match change {
                Some(change) => apply(&mut live, change, &recipe, encoder),
                None => Ok(()),
            });
        }
    })?;
    failed?;
    if end.max(before) > retriever.live().position() {
        live.advance(end.max(before));
        retriever.set_live(live);
    }
    Ok(end.max(before))
}

/// Applies one change.
///
/// # Errors
/// As [`replay`]; `live` may then lack the document.
pub fn apply(
    live: &mut Live,
    change: DocumentChange,
    recipe: &Recipe,
    encoder: Option<&BiEncoder>,
) -> Result<(), LiveError> {
    let id = change.document().to_owned();
    let changed = match change {
        DocumentChange::Delete(id) => live.delete(&id).map(|_| ()),
        DocumentChange::Upsert(upsert) => {
            let upsert = recipe.fit(upsert, encoder)?;
            live.upsert(&id, upsert.passages())
        }
    };
    changed.map_err(|source| LiveError::Change {
        id,
        source: Box::new(source),
    })
}
