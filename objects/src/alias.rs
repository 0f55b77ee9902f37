//! Aliases that many may change.

use collection::{AliasName, AliasTable, GenerationId};

use crate::folder::MAX_TRIES;
use crate::{Objects, ObjectsError, Version};

const KEY: &str = "aliases.json";
const MAX_BYTES: u64 = 16 << 20;

impl Objects {
    /// What the aliases name.
    ///
    /// # Errors
    /// [`ObjectsError::Aliases`] when the file is damaged.
    pub fn aliases(&self) -> Result<AliasTable, ObjectsError> {
        Ok(self.alias_file()?.0)
    }

    /// Makes an alias name a generation that is there. With `expected`, only if it names that until then.
    ///
    /// # Errors
    /// [`ObjectsError::Changed`] when it names something else than what is expected, [`ObjectsError::Unknown`] when there is no such generation.
    pub fn set_alias(
        &self,
        alias: &AliasName,
        id: &GenerationId,
        expected: Option<Option<&GenerationId>>,
    ) -> Result<(), ObjectsError> {
        self.manifest(id)?;
        let mut before = None;
        self.change(|table| {
            before = Some(table.clone());
            let found = table.now.get(alias);
            if let Some(expected) = expected
                && found != expected
            {
                return Err(ObjectsError::Changed {
                    url: self.url(""),
                    alias: alias.to_string(),
                    expected: expected.cloned(),
                    found: found.cloned(),
                });
            }
            table.set(alias, id);
            Ok(())
        })?;
        // Who removes generations looks at the aliases once more behind the manifest: one of the two sees the other.
        let (Err(error), Some(before)) = (self.manifest(id), before) else {
            return Ok(());
        };
        self.change(|table| {
            if table.now.get(alias) == Some(id) {
                restore(table, &before, alias);
            }
            Ok(())
        })?;
        Err(error)
    }

    /// Makes an alias name what it named before its last change, and returns that.
    ///
    /// # Errors
    /// [`ObjectsError::NoPrevious`] when it was never changed; else as [`Self::set_alias`].
    pub fn rollback(&self, alias: &AliasName) -> Result<GenerationId, ObjectsError> {
        let table = self.aliases()?;
        let Some(id) = table.before.get(alias) else {
            return Err(ObjectsError::NoPrevious {
                url: self.url(""),
                alias: alias.to_string(),
            });
        };
        self.set_alias(alias, id, Some(table.now.get(alias)))?;
        Ok(id.clone())
    }

    /// Changes the file as long as it takes until nobody else did meanwhile.
    fn change(
        &self,
        mut edit: impl FnMut(&mut AliasTable) -> Result<(), ObjectsError>,
    ) -> Result<(), ObjectsError> {
        for _ in 0..MAX_TRIES {
            let (mut table, version) = self.alias_file()?;
            let before = table.clone();
            edit(&mut table)?;
            let done = match version {
                Some(_) if table == before => true,
                Some(version) => self.replace(KEY, &table.to_bytes(), &version)?,
                None => self.create(KEY, &table.to_bytes())?.is_none(),
            };
            if done {
                return Ok(());
            }
        }
        Err(self.contended(KEY))
    }

    fn alias_file(&self) -> Result<(AliasTable, Option<Version>), ObjectsError> {
        let Some(found) = self.read(KEY, MAX_BYTES)? else {
            return Ok(<_>::default());
        };
        let table = AliasTable::from_slice(&found.bytes);
        let table = table.map_err(|reason| ObjectsError::Aliases {
            url: self.url(KEY),
            reason,
        })?;
        Ok((table, Some(found.version)))
    }
}

/// Makes an alias what it was in an earlier table: what it names, and what it named before that.
fn restore(table: &mut AliasTable, earlier: &AliasTable, alias: &AliasName) {
    for (now, then) in [
        (&mut table.now, &earlier.now),
        (&mut table.before, &earlier.before),
    ] {
        match then.get(alias) {
            Some(id) => now.insert(alias.clone(), id.clone()),
            None => now.remove(alias),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_that_is_taken_back_leaves_what_a_rollback_goes_to() {
        let id = |name| GenerationId::parse(name).unwrap();
        let [live, other] = ["live", "other"].map(|name| AliasName::parse(name).unwrap());
        let mut earlier = AliasTable::default();
        for name in ["g1", "g2", "g3"] {
            let mut table = earlier.clone();
            table.set(&live, &id(name));
            let set = table.clone();
            restore(&mut table, &earlier, &live);
            assert_eq!(table, earlier, "{name}");
            earlier = set;
        }
        // Of other aliases it keeps what was changed meanwhile.
        let mut table = earlier.clone();
        table.set(&live, &id("g4"));
        table.set(&other, &id("g1"));
        restore(&mut table, &earlier, &live);
        assert_eq!(table.now.get(&other), Some(&id("g1")));
        assert_eq!(table.before.get(&live), Some(&id("g2")));
    }
}
