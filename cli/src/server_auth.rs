//! `[auth]` and `[server.tls]` of `server.toml`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use server::{ApiKey, AuthConfig, Rate, Scope, Tls};

use crate::failure::Failure;
use crate::server_file::Time;

/// `[auth]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthSection {
    pub keys: Vec<KeySection>,
    pub public: Vec<String>,
}

impl Default for AuthSection {
    fn default() -> Self {
        Self {
            keys: Vec::new(),
            public: AuthConfig::default().public,
        }
    }
}

/// One entry of `auth.keys`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeySection {
    pub name: String,
    pub sha256: String,
    pub scopes: Vec<Scope>,
    #[serde(default, deserialize_with = "rate")]
    pub rate: Option<Rate>,
    #[serde(default)]
    pub collections: Vec<String>,
    pub filter: Option<openapi::Filter>,
}

fn rate<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Rate>, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map(Some).map_err(serde::de::Error::custom)
}

impl AuthSection {
    /// The keys as the server takes them.
    pub fn resolve(&self) -> anyhow::Result<AuthConfig> {
        let keys: anyhow::Result<Vec<ApiKey>> = self.keys.iter().map(KeySection::resolve).collect();
        Ok(AuthConfig {
            keys: keys?,
            public: self.public.clone(),
        })
    }
}

impl KeySection {
    fn resolve(&self) -> anyhow::Result<ApiKey> {
        let refused = |text: String| Failure::usage(format!("auth.keys: `{}`: {text}", self.name));
        let Some(sha256) = digest(&self.sha256) else {
            let text = "sha256 is not 64 hexadecimal digits".to_owned();
            let hint = "`trawl config key NAME` makes a key and its entry";
            return Err(refused(text).hint(hint).into());
        };
        let filter = self.filter.clone().map(|filter| {
            server::read_filter(filter, "filter").map_err(|faults| {
                let faults: Vec<String> = faults
                    .iter()
                    .map(|fault| format!("{} {}", fault.pointer, fault.message))
                    .collect();
                refused(faults.join("; "))
            })
        });
        Ok(ApiKey {
            name: self.name.clone(),
            sha256,
            scopes: self.scopes.clone(),
            rate: self.rate,
            collections: self.collections.clone(),
            filter: filter.transpose()?,
        })
    }
}

/// Reads 64 hexadecimal digits.
fn digest(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (byte, place) in bytes.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(&text[place..place + 2], 16).ok()?;
    }
    Some(bytes)
}

/// `[server.tls]`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TlsSection {
    /// The chain in PEM, the server's own certificate first.
    pub cert: PathBuf,
    /// The key of that one in PEM.
    pub key: PathBuf,
    /// How often both files are read again at least; a change is seen within seconds anyway.
    #[serde(default = "hourly")]
    pub reload: Time,
}

fn hourly() -> Time {
    Time(Duration::from_secs(3600))
}

impl TlsSection {
    /// Reads the files.
    pub fn load(&self) -> anyhow::Result<Tls> {
        let read = |path: &PathBuf| {
            std::fs::read(path).with_context(|| format!("cannot read `{}`", path.display()))
        };
        let (chain, key) = (read(&self.cert)?, read(&self.key)?);
        let (cert, path) = (self.cert.display(), self.key.display());
        Tls::from_pem(&chain, &key).with_context(|| format!("cannot use `{cert}` with `{path}`"))
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let millis = self.0.as_millis();
        let text = match millis {
            millis if millis % 1000 == 0 => format!("{}s", millis / 1000),
            millis => format!("{millis}ms"),
        };
        serializer.serialize_str(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_and_what_is_wrong_is_named() {
        let hex = "ab".repeat(32);
        let section = |text: &str| toml::from_str::<AuthSection>(text);
        let text = format!(
            r#"keys = [{{ name = "shop", sha256 = "{hex}", scopes = ["search"], rate = "60/m", collections = ["docs"],
            filter = {{ must = [{{ key = "tenant", match = {{ value = "shop" }} }}] }} }}]"#
        );
        let config = section(&text).unwrap().resolve().unwrap();
        let key = &config.keys[0];
        assert_eq!((key.sha256, key.rate.unwrap().requests), ([0xab; 32], 60));
        assert!(key.filter.is_some() && config.public.contains(&"livez".to_owned()));

        let wrong = |replaced: &str, by: &str| {
            let text = text.replace(replaced, by);
            match section(&text) {
                Ok(section) => format!("{:#}", section.resolve().unwrap_err()),
                Err(error) => error.to_string(),
            }
        };
        assert!(wrong(&hex, "abc").contains("`shop`: sha256 is not 64"));
        assert!(wrong("60/m", "60").contains("`60` is no rate"));
        assert!(wrong("\"search\"]", "\"find\"]").contains("unknown variant `find`"));
        assert!(wrong("match = { value = \"shop\" }", "").contains("filter/must/0"));
        assert!(wrong("rate", "rates").contains("unknown field `rates`"));
    }
}
