//! Object storage named on the command line, reached as the environment says.

use std::path::{Path, PathBuf};

use anyhow::Context;
use objects::{Location, Objects, Settings};

use crate::commands::config::variables;
use crate::failure::Failure;

/// What `--help` says about reaching object storage.
pub const ENVIRONMENT: &str = "Credentials, region and endpoint are those of the AWS environment: AWS_ACCESS_KEY_ID,
AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_REGION, AWS_ENDPOINT_URL, AWS_CA_BUNDLE; docs/object-storage.md
has all of them. `file:///folder` stands in for a bucket.";

/// Opens a place by its URL.
pub fn open(location: &Location) -> anyhow::Result<Objects> {
    let aws = |(name, _): &(String, String)| name.starts_with("AWS_");
    let variables: Vec<_> = variables().filter(aws).collect();
    let bundle = variables.iter().find(|(name, _)| name == "AWS_CA_BUNDLE");
    let settings = Settings {
        authorities: bundle.map(|(_, path)| PathBuf::from(path)),
        variables,
    };
    Objects::open(location, &settings).with_context(|| format!("cannot use `{location}`"))
}

/// The place that a path names, if it is a URL.
pub fn location(path: &Path) -> anyhow::Result<Option<Location>> {
    if !Location::is_url(path) {
        return Ok(None);
    }
    let text = path
        .to_str()
        .ok_or_else(|| Failure::usage("a URL is plain text"))?;
    Ok(Some(Location::parse(text)?))
}

/// Refuses a URL where a folder is written.
pub fn check_folder(path: &Path, hint: &str) -> anyhow::Result<()> {
    if Location::is_url(path) {
        let text = format!("`{}` is a URL, expected a folder", path.display());
        return Err(Failure::usage(text).hint(hint).into());
    }
    Ok(())
}
