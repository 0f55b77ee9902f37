//! Changes applied to an open generation.

use collection::Collection;
use encoder::BiEncoder;
use retriever::{Live, Retriever};

use super::{DocumentChange, LiveError, Recipe};

/// Applies what the log has after the position that an open generation has reached; `encoder` makes vectors anew where they
/// are of another fingerprint. Searches see all of it or nothing. Returns the position reached.
///
/// Begins behind what the generation contains and what was left out of it when it was published. Where more was left out since, as by
/// publishing it once more, what it had of that is gone. Any number may call this at once, for the same open generation, too.
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
    if start > live.start() {
        live = retriever.without_changes(start);
    }
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
    let position = end.max(before);
    live.advance(position);
    retriever.set_live(live);
    Ok(position)
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
