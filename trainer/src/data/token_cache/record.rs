use crate::masking::MasterText;
use crate::spans::{SpanDocument, SpanPairs};

/// Token ids of a text.
pub type Ids = Box<[u32]>;

/// A text of pre-training as a [`TokenCache`](super::TokenCache) keeps it.
pub trait Cached: Sized {
    /// What such texts are called in a cache, which is read for no others.
    const KIND: &'static str;

    /// Appends the text to a file.
    fn write(&self, record: &mut RecordWriter);

    /// Reads it back; `None` where the bytes are not what [`Self::write`] wrote.
    fn read(record: &mut RecordReader<'_>) -> Option<Self>;
}

/// Bytes of a token id: two where all ids of the vocabulary fit, else four.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IdWidth {
    Two,
    Four,
}

impl IdWidth {
    pub(super) fn of(n_vocabulary: usize) -> Self {
        match n_vocabulary <= 1 << 16 {
            true => Self::Two,
            false => Self::Four,
        }
    }

    pub(super) fn n_bytes(self) -> usize {
        match self {
            Self::Two => 2,
            Self::Four => 4,
        }
    }
}

/// Where a text is written: numbers, and lists of ids, all little-endian.
pub struct RecordWriter {
    pub(super) bytes: Vec<u8>,
    pub(super) width: IdWidth,
}

impl RecordWriter {
    /// The last ids of a text, whose number its end tells.
    pub fn rest(&mut self, ids: &[u32]) {
        match self.width {
            IdWidth::Two => {
                let narrow = |&id: &u32| u16::try_from(id).expect("ids are below the vocabulary");
                let bytes = ids.iter().flat_map(|id| narrow(id).to_le_bytes());
                self.bytes.extend(bytes);
            }
            IdWidth::Four => self
                .bytes
                .extend(ids.iter().flat_map(|id| id.to_le_bytes())),
        }
    }

    /// A count.
    pub fn count(&mut self, n: usize) {
        let n = u32::try_from(n).expect("a line has fewer than 2³² bytes");
        self.bytes.extend(n.to_le_bytes());
    }

    /// Ids behind their number.
    pub fn list(&mut self, ids: &[u32]) {
        self.count(ids.len());
        self.rest(ids);
    }
}

/// What [`RecordWriter`] wrote of a text.
pub struct RecordReader<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) width: IdWidth,
}

impl RecordReader<'_> {
    /// All ids that are left.
    pub fn rest(&mut self) -> Option<Vec<u32>> {
        let n_bytes = self.bytes.len();
        let n_ids = n_bytes.is_multiple_of(self.width.n_bytes());
        n_ids.then(|| self.ids(n_bytes / self.width.n_bytes()))?
    }

    /// A count.
    pub fn count(&mut self) -> Option<usize> {
        let (count, rest) = self.bytes.split_first_chunk()?;
        self.bytes = rest;
        Some(u32::from_le_bytes(*count) as usize)
    }

    /// Ids behind their number.
    pub fn list(&mut self) -> Option<Vec<u32>> {
        let n_ids = self.count()?;
        self.ids(n_ids)
    }

    fn ids(&mut self, n_ids: usize) -> Option<Vec<u32>> {
        let n_bytes = n_ids.checked_mul(self.width.n_bytes())?;
        let (ids, rest) = self.bytes.split_at_checked(n_bytes)?;
        self.bytes = rest;
        Some(match self.width {
            IdWidth::Two => {
                let (pairs, _) = ids.as_chunks();
                pairs
                    .iter()
                    .map(|id| u16::from_le_bytes(*id).into())
                    .collect()
            }
            IdWidth::Four => {
                let (fours, _) = ids.as_chunks();
                fours.iter().map(|id| u32::from_le_bytes(*id)).collect()
            }
        })
    }
}

impl Cached for Ids {
    const KIND: &'static str = "ids";

    fn write(&self, record: &mut RecordWriter) {
        record.rest(self);
    }

    fn read(record: &mut RecordReader<'_>) -> Option<Self> {
        record.rest().map(Vec::into_boxed_slice)
    }
}

impl Cached for MasterText {
    const KIND: &'static str = "master";

    fn write(&self, record: &mut RecordWriter) {
        for lists in [&self.queries, &self.next] {
            record.count(lists.len());
            lists.iter().for_each(|ids| record.list(ids));
        }
        record.rest(&self.text);
    }

    fn read(record: &mut RecordReader<'_>) -> Option<Self> {
        let mut lists = || {
            let n_lists = record.count()?;
            let lists = (0..n_lists).map(|_| record.list());
            lists.collect::<Option<Vec<_>>>()
        };
        Some(Self {
            queries: lists()?,
            next: lists()?,
            text: record.rest()?,
        })
    }
}

impl Cached for SpanDocument {
    const KIND: &'static str = "spans";

    fn write(&self, record: &mut RecordWriter) {
        record.count(self.spans.len());
        for span in &self.spans {
            let lists = [
                &span.anchor,
                &span.random_sampled,
                &span.nearby,
                &span.overlap,
            ];
            lists.into_iter().for_each(|ids| record.list(ids));
        }
    }

    fn read(record: &mut RecordReader<'_>) -> Option<Self> {
        let n_spans = record.count()?;
        let span = |_| {
            Some(SpanPairs {
                anchor: record.list()?,
                random_sampled: record.list()?,
                nearby: record.list()?,
                overlap: record.list()?,
            })
        };
        let spans = (0..n_spans).map(span).collect::<Option<_>>()?;
        Some(Self { spans })
    }
}
