//! What stood in the batch of a step that failed: the token ids, as they were read.

use serde_json::{Value, json};

use super::{RetroMaeText, SimLmText, SpanPair};
use crate::masking::{Corrupted, MasterStreams};
use crate::run::Describe;

impl Describe for Vec<Corrupted> {
    fn describe(&self) -> Value {
        let text = |text: &Corrupted| json!({ "tokens": text.ids });
        self.iter().map(text).collect()
    }
}

impl Describe for Vec<RetroMaeText> {
    fn describe(&self) -> Value {
        let text = |text: &RetroMaeText| json!({ "tokens": text.encoder.ids });
        self.iter().map(text).collect()
    }
}

impl Describe for Vec<SpanPair> {
    fn describe(&self) -> Value {
        let pair =
            |pair: &SpanPair| json!({ "spans": pair.encoder.each_ref().map(|span| &span.ids) });
        self.iter().map(pair).collect()
    }
}

impl Describe for Vec<MasterStreams> {
    fn describe(&self) -> Value {
        let text = |streams: &MasterStreams| json!({ "tokens": streams.text.ids });
        self.iter().map(text).collect()
    }
}

impl Describe for Vec<SimLmText> {
    fn describe(&self) -> Value {
        let text = |text: &SimLmText| json!({ "tokens": text.encoder.ids });
        self.iter().map(text).collect()
    }
}
