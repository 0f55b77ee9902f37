use std::cmp::Ordering;

use corpus::{FieldKind, Schema};
use serde::{Deserialize, Serialize};
use store::{FieldValue, FilterError, SelectError, View, field_kind};

use crate::SearchError;
use crate::candidates::Candidate;

/// An order by the values of a field, in place of that by score.
///
/// Of several values the smallest counts in ascending order, the greatest in descending. Passages without a value come last, and
/// equal ones in the order of the corpus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sort {
    /// A keyword, integer, float, date or boolean field.
    pub field: String,
    /// Which end comes first.
    pub order: SortOrder,
}

/// Which end of an order comes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SortOrder {
    /// The smallest value.
    #[default]
    Asc,
    /// The greatest value.
    Desc,
}

const ORDERED: &[FieldKind] = &[
    FieldKind::Keyword,
    FieldKind::Integer,
    FieldKind::Float,
    FieldKind::Date,
    FieldKind::Boolean,
];

impl Sort {
    pub(crate) fn check(&self, schema: &Schema) -> Result<(), FilterError> {
        let kind = field_kind(&self.field, schema, "sort", ORDERED);
        kind.map(drop).map_err(|fault| FilterError {
            pointer: "/field".to_owned(),
            fault,
        })
    }

    pub(crate) fn apply(
        &self,
        passages: &mut Vec<Candidate>,
        view: &View,
    ) -> Result<(), SearchError> {
        let ordinals: Vec<u32> = passages.iter().map(|passage| passage.ordinal).collect();
        let values = view.values(&self.field, &ordinals);
        let values = values.map_err(|error| match error {
            SelectError::Filter(error) => SearchError::Sort(error),
            SelectError::Store(error) => SearchError::Store(error),
        })?;
        let keys = values.into_iter().map(|values| self.key(values));
        let mut keyed: Vec<(Option<FieldValue>, Candidate)> =
            keys.zip(passages.drain(..)).collect();
        keyed.sort_by(|(a, of_a), (b, of_b)| {
            let by_value = match (a, b) {
                (Some(a), Some(b)) => match self.order {
                    SortOrder::Asc => a.order(b),
                    SortOrder::Desc => b.order(a),
                },
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => Ordering::Equal,
            };
            by_value.then(of_a.ordinal.cmp(&of_b.ordinal))
        });
        passages.extend(keyed.into_iter().map(|(_, passage)| passage));
        Ok(())
    }

    fn key(&self, values: Vec<FieldValue>) -> Option<FieldValue> {
        let values = values.into_iter();
        match self.order {
            SortOrder::Asc => values.min_by(FieldValue::order),
            SortOrder::Desc => values.max_by(FieldValue::order),
        }
    }
}
