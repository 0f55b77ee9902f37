use std::fmt;
use std::str::FromStr;

use crate::MilvusError;

/// Where collections of Milvus are: `milvus://host:port,host:port/name?bucket=s3://bucket/folder`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Host and port of every proxy.
    pub proxies: Vec<String>,
    /// The alias, and what the names of collections begin with.
    pub name: String,
    /// Where files are left that the cluster imports: the object storage it uses itself.
    pub bucket: Option<String>,
}

impl FromStr for Address {
    type Err = MilvusError;

    fn from_str(text: &str) -> Result<Self, MilvusError> {
        let wrong = |what| MilvusError::Address {
            text: text.to_owned(),
            what,
        };
        let shown = text.split("?bucket=").next().unwrap_or(text);
        if shown.contains('@') {
            return Err(MilvusError::Credentials);
        }
        let rest = text
            .strip_prefix("milvus://")
            .ok_or_else(|| wrong("begins with `milvus://`"))?;
        let (place, query) = match rest.split_once('?') {
            Some((place, query)) => (place, Some(query)),
            None => (rest, None),
        };
        let (proxies, name) = place
            .split_once('/')
            .ok_or_else(|| wrong("names hosts and a collection, as `host:port/name`"))?;
        let proxies: Vec<String> = proxies.split(',').map(str::to_owned).collect();
        let is_host = |proxy: &String| {
            let parts = proxy.rsplit_once(':');
            parts.is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
        };
        if !proxies.iter().all(is_host) {
            return Err(wrong("names every proxy as `host:port`"));
        }
        // Milvus' own rule, and room for the generation behind it.
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        let begins = |name: &str| name.starts_with(|first: char| !first.is_ascii_digit());
        if !begins(name) || !name.bytes().all(plain) || name.len() > 200 {
            return Err(wrong(
                "has a name of letters, digits and `_` that begins with no digit",
            ));
        }
        let bucket = match query.map(|query| query.split_once('=')) {
            None => None,
            Some(Some(("bucket", bucket))) if !bucket.is_empty() => Some(bucket.to_owned()),
            Some(_) => return Err(wrong("has no setting but `?bucket=s3://bucket/folder`")),
        };
        Ok(Self {
            proxies,
            name: name.to_owned(),
            bucket,
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "milvus://{}/{}",
            self.proxies.join(","),
            self.name
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_names_proxies_a_collection_and_a_bucket() {
        let of = |text: &str| text.parse::<Address>().unwrap();
        let address = of("milvus://a:1,[::1]:2/docs?bucket=s3://b/c");
        assert_eq!(address.proxies, ["a:1", "[::1]:2"]);
        assert_eq!(address.name, "docs");
        assert_eq!(address.bucket.as_deref(), Some("s3://b/c"));
        assert_eq!(address.to_string(), "milvus://a:1,[::1]:2/docs");
        assert_eq!(of("milvus://a:1/docs").bucket, None);
    }

    #[test]
    fn an_address_that_is_none_is_refused() {
        for text in [
            "http://a:1/docs",
            "milvus://a:1",
            "milvus://a/docs",
            "milvus://a:1,/docs",
            "milvus://a:1/",
            "milvus://a:1/1docs",
            "milvus://a:1/do-cs",
            "milvus://a:1/docs?bucket",
            "milvus://a:1/docs?bucket=",
            "milvus://a:1/docs?secure=1",
        ] {
            let refused = text.parse::<Address>().unwrap_err().to_string();
            assert!(refused.contains(text), "{refused}");
        }
    }

    #[test]
    fn a_password_in_an_address_is_refused_and_not_repeated() {
        for text in [
            "milvus://root:secret@a:1/docs",
            "milvus://root:s/e?cret@a:1/docs?bucket=s3://b/c",
            "http://root:secret@a:1",
        ] {
            let refused = text.parse::<Address>().unwrap_err().to_string();
            assert!(!refused.contains("cret"), "{refused}");
            assert!(refused.contains("TRAWL_MILVUS_TOKEN"), "{refused}");
        }
    }
}
